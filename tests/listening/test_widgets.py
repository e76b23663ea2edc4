import threading

import numpy as np
import pytest

from cadenza_lib.chain.fitting import PRESCRIPTIONS
from cadenza_lib.data.listeners import BISGAARD_THRESHOLDS_DB_HL, standard_audiogram
from cadenza_lib.listening.widgets import AudiogramWidget, LatestTask


@pytest.mark.parametrize("name", BISGAARD_THRESHOLDS_DB_HL)
def test_points_that_can_be_dragged_hold_all_that_nal_r_looks_at(name: str) -> None:
    widget = AudiogramWidget()
    widget.show("left", standard_audiogram(name))
    np.testing.assert_array_equal(
        PRESCRIPTIONS["nal_r"].gain_db(widget.listener().audiogram_left),
        PRESCRIPTIONS["nal_r"].gain_db(standard_audiogram(name)),
    )
    assert not widget.listener().audiogram_right.levels.any()


def test_latest_task_runs_the_first_and_the_last_of_a_burst() -> None:
    ran, go_on, errors = [], threading.Event(), []
    worker = LatestTask(errors.append)
    worker.submit(lambda: (go_on.wait(30), ran.append("first")))
    for number in range(50):
        worker.submit(lambda number=number: ran.append(number))
    go_on.set()
    worker.wait()
    assert ran[-1] == 49
    assert len(ran) <= 2  # the first may have been overtaken before it began
    assert errors == []


def test_latest_task_tells_of_an_error_and_goes_on() -> None:
    errors, ran = [], []
    worker = LatestTask(errors.append)
    worker.submit(lambda: 1 / 0)
    worker.wait()
    worker.submit(lambda: ran.append(1))
    worker.wait()
    assert isinstance(errors[0], ZeroDivisionError)
    assert ran == [1]
