from .causes import (
    clip_effect_table,
    level_experiment,
    level_gain_table,
    losses_table,
    official_scores,
    output_level_choices,
)
from .comparisons import compare, optimum_sentence, paper_table, system_scores, target_table
from .explain import explain_difference
from .findings import fall_table, findings_table
from .output_stages import compare_stages
from .personal import compare_settings, severity_table
from .statistics import correlation_table, mixed_model, partial_correlation_table
from .tables import (
    data_size_table,
    describe,
    ear_columns,
    featured_listener,
    gain_table,
    listeners_and_gains_db,
    summary_table,
    system_label,
    threshold_columns,
    tidy_table,
)

__all__ = [
    "clip_effect_table",
    "compare",
    "compare_settings",
    "compare_stages",
    "correlation_table",
    "data_size_table",
    "describe",
    "ear_columns",
    "explain_difference",
    "fall_table",
    "featured_listener",
    "findings_table",
    "gain_table",
    "level_experiment",
    "level_gain_table",
    "listeners_and_gains_db",
    "losses_table",
    "mixed_model",
    "official_scores",
    "optimum_sentence",
    "output_level_choices",
    "paper_table",
    "partial_correlation_table",
    "severity_table",
    "summary_table",
    "system_label",
    "system_scores",
    "target_table",
    "threshold_columns",
    "tidy_table",
]
