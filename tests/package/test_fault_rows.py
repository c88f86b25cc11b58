"""Each reported fault has a test: the rows of the list of faults, by id, and the tests of their kind."""

import re

import pytest
from conftest import ROOT

# Silently wrong figures (s), foreign files (x), blocked folders (b), tracebacks and hangs (t), misleading messages (m).
ROWS = {
    "s01": ["datasets/test_class_lists.py::test_run_on_classes_with_identical_tokens_is_rejected"],
    "s02": ["datasets/test_class_lists.py::test_imagenetv2_ignores_line_order"],
    "s03": [
        "training/test_run_identity.py::test_class_contexts_stay_with_their_classes",
        "training/test_run_identity.py::test_class_contexts_are_found_by_name",
        "training/test_run_identity.py::test_first_class_contexts_of_other_classes_are_rejected",
        "training/test_run_identity.py::test_class_contexts_stay_with_their_classes_without_other_files",
    ],
    "s04": ["config/test_faults.py::test_overridden_setting_is_one_warning_line"],
    "s05": [
        "datasets/test_images.py::test_16_bits_equal_8_bits",
        "datasets/test_images.py::test_values_without_range_are_rejected",
    ],
    "s06": [
        "datasets/test_images.py::test_endings_that_pillow_reads_are_read",
        "datasets/test_images.py::test_skipped_files_and_folders_are_counted_and_named",
    ],
    "s07": ["training/test_run_identity.py::test_best_val_without_validation_images_is_rejected"],
    "s08": ["training/test_run_identity.py::test_resume_of_other_run_is_rejected"],
    "s09": [
        "training/test_run_identity.py::test_evaluation_with_config_file_is_compared_with_training",
        "training/test_run_identity.py::test_evaluation_on_images_that_are_not_normalised_is_rejected",
        "experiments/test_recorded_keys.py::test_missing_key_counts_as_its_default",
    ],
    "s10": ["backbones/test_files.py::test_unrecorded_function_is_logged_once"],
    "s11": ["datasets/test_images.py::test_own_images_are_shown_upright"],
    "s12": ["datasets/test_datasets_faults.py::test_draw_that_was_short_of_images_is_rejected_when_more_exist"],
    "s13": [
        "experiments/test_identity.py::test_other_images_are_rejected",
        "experiments/test_identity.py::test_other_images_are_rejected_by_boost_and_base2new",
    ],
    "s14": ["experiments/test_identity.py::test_pair_that_does_not_reach_phase_1_is_announced"],
    "s15": ["experiments/test_identity.py::test_result_records_sizes_in_use"],
    "s16": ["backbones/test_files.py::test_damaged_backbone_is_one_error_line"],
    "s17": [
        "method/test_prompt_file.py::test_zeroed_values_are_rejected",
        "method/test_prompt_file.py::test_changed_metadata_is_rejected",
    ],
    "s18": ["training/test_run_identity.py::test_progress_knows_its_run_without_config"],
    "s19": ["training/test_run_identity.py::test_unfinished_run_with_checkpoints_is_not_evaluated"],
    "s20": [
        "datasets/test_datasets_faults.py::test_training_image_in_test_under_another_spelling",
        "datasets/test_datasets_faults.py::test_one_own_file_under_two_names",
    ],
    "s21": ["datasets/test_datasets_faults.py::test_csv_with_ambiguous_columns_is_rejected"],
    "s22": ["config/test_faults.py::test_transforms_without_normalize_are_one_warning_line"],
    "s23": ["config/test_faults.py::test_setting_out_of_range_is_one_error_line"],
    "s24": ["config/test_faults.py::test_key_that_no_code_reads_is_rejected"],
    "x01": ["backbones/test_files.py::test_archive_is_not_executed"],
    "x02": ["experiments/test_identity.py::test_killed_job_fails_and_no_planted_pickle_is_loaded"],
    "x03": [
        "storage/test_regular_files.py::test_writer_rejects_other_than_regular_file",
        "storage/test_regular_files.py::test_lock_rejects_other_than_regular_file",
    ],
    "b01": [
        "backbones/test_files.py::test_depth_beyond_the_backbone_is_named_with_all_other_keys",
        "training/test_run_identity.py::test_failed_first_epoch_does_not_block_corrected_command",
    ],
    "b02": [
        "method/test_prompt_file.py::test_saving_twice_writes_the_same_bytes",
        "experiments/test_identity.py::test_removed_phase_1_is_trained_again_and_runs_stay_valid",
    ],
    "t01": ["backbones/test_files.py::test_resnet_with_vision_prompts_is_one_error_line"],
    "t02": [
        "config/test_faults.py::test_setting_out_of_range_is_one_error_line",
        "config/test_key_values.py::test_bad_values_of_a_key_are_rejected_or_in_its_range",
    ],
    "t03": ["config/test_faults.py::test_setting_out_of_range_is_one_error_line"],
    "t04": ["storage/test_tensors.py::test_tensor_larger_than_its_storage_is_rejected"],
    "t05": [
        "config/test_faults.py::test_hostile_yaml_ends_in_seconds_with_one_line",
        "results/test_results.py::test_damaged_result_is_named_and_others_are_shown",
        "datasets/test_datasets_faults.py::test_csv_with_huge_field_is_rejected",
    ],
    "t06": ["training/test_run_identity.py::test_progress_with_wrong_value_is_named"],
    "t07": ["results/test_results.py::test_named_pipe_and_huge_result_are_named_and_left_out"],
    "m01": ["config/test_faults.py::test_model_dir_that_is_not_a_run_is_named"],
    "m02": ["datasets/test_layouts.py::test_own_folder_one_level_too_high"],
    "m03": [
        "results/test_results.py::test_runs_with_different_settings_have_separate_tables",
        "results/test_results.py::test_same_run_in_two_folders_is_an_error_without_a_table",
    ],
    "m04": [
        "config/test_faults.py::test_pairs_are_found_anywhere",
        "experiments/test_identity.py::test_grid_without_data_is_one_line_and_writes_nothing",
    ],
    "m05": ["storage/test_tensors.py::test_web_page_is_rejected_in_one_line"],
}


def test_no_row_is_left_out():
    counts = {"s": 24, "x": 3, "b": 2, "t": 7, "m": 5}
    assert list(ROWS) == [f"{kind}{number:02}" for kind, count in counts.items() for number in range(1, count + 1)]


@pytest.mark.parametrize("row", ROWS)
def test_tests_of_a_row_exist(row):
    for name in ROWS[row]:
        file, _, test = name.partition("::")
        assert re.search(rf"^def {test}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE), name
