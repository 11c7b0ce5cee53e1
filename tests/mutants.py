"""Are the tests any good? Breaks the code in one place at a time, and runs on the broken copy the
few tests that should notice.

    python tests/mutants.py [NUMBER ...] [--workers 2]

A mutant that no test notices survives; it is printed, and the exit code is 1 if more than one in
twenty does. Not part of the suite: it takes a quarter of an hour on two cores.

The mutants share a folder of compiled programs, which one run of all the tests on the unbroken
code fills first; most of the time of a test here is compiling. A mutant is killed when one of its
tests fails, or does not end in time.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import groupby
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
LIMIT = 300
"""Seconds that the tests of one mutant may take."""
PASSED, FAILED = 0, 1
"""Exit codes of pytest."""
RUNNING: set[int] = set()
"""The processes of tests, each the first of a group of its own."""


class Mutant(NamedTuple):
    """A wrong line, and who should notice."""

    file: str
    """Under `qgf_eqx/`."""
    right: str
    """What the file says, in one place or in `times` places."""
    wrong: str
    """What it should not say."""
    tests: str
    """Files of tests or single ones, under `tests/`, with a space between."""
    times: int = 1


TABLE = [
    # From noise to action.
    ("_denoise.py", "a_t + (1 - t) * velocity", "a_t + t * velocity", "test_denoise.py::test_one_step_reaches_the_posterior_mean"),
    ("_denoise.py", "np.maximum)\n", "np.maximum)\n    steps = steps + 1\n", "test_denoise.py::test_in_float32_the_grid_has_as_many_steps_as_it_should"),
    ("_denoise.py", "slack = min(1e-3 + 4 * steps * float(jnp.finfo(a_t.dtype).eps), 0.4)", "slack = 0.0", "test_denoise.py::test_in_float32_the_grid_has_as_many_steps_as_it_should"),
    ("_denoise.py", "jnp.where(k < count, move(a), a)", "jnp.where(k <= count, move(a), a)", "test_denoise.py::test_a_traced_time_changes_nothing"),
    ("_sample.py", "jnp.where((w == 0) & ~jnp.isfinite(g), 0, g)", "g", "test_sample.py::test_weight_zero_is_the_plain_flow_bit_for_bit_even_where_the_critic_is_nan test_sample.py::test_weight_zero_is_the_plain_flow_for_every_other_estimator_too"),
    ("_sample.py", "else v + push(", "else v - push(", "test_sample.py::test_one_step_by_hand"),
    ("_sample.py", "np.arange(steps) / steps", "(np.arange(steps) + 1) / steps", "test_sample.py::test_one_step_by_hand"),
    ("_sample.py", "jnp.argmax(", "jnp.argmin(", "test_sample.py::test_best_of_at_weight_zero_is_the_best_of_the_flow"),
    ("_sample.py", "known = ~jnp.isnan(values)", "known = values == values.max()", "test_sample.py::test_a_value_of_nan_ranks_below_minus_infinity"),
    ("_sample.py", "fold_in(key, i), guided.action_shape", "fold_in(key, i + 1), guided.action_shape", "test_sample.py::test_best_of_one_is_the_first_candidate"),
    ("_sample.py", "jax.random.normal(jax.random.fold_in(key, i), guided.action_shape)", "jax.random.normal(jax.random.key(0), guided.action_shape)", "test_sample.py::test_best_of_one_is_the_first_candidate"),
    ("_sample.py", "return asked_at(guided.critic, _walk(guided, obs, noise, steps))", "return _walk(guided, obs, noise, steps)", "test_sample.py::test_a_bounded_critic_keeps_actions_in_its_bounds_and_ranks_them_clipped"),
    ("_sample.py", 'partial(_draw, guided, obs, key, steps), jnp.arange(best_of)', 'partial(_draw, guided, obs, key, 10), jnp.arange(best_of)', "test_sample.py::test_every_option_reaches_every_candidate"),
    ("_sample.py", "dt0=1 / steps", "dt0=0.1", "test_sample.py::test_solvers_of_the_guided_field_have_their_order"),
    ("_fields.py", "self.critic(obs, self.clip(action, *self._bounds(action)))", "self.critic(obs, action)", "test_fields.py::test_bounded_clips_to_each_dimensions_bounds"),
    ("_fields.py", "tangents[0]", "0 * tangents[0]", "test_fields.py::test_differentiating_through_the_clip_is_differentiating_at_the_clipped_point"),
    ("_fields.py", "np.asarray(low, float) <= np.asarray(high, float)", "np.asarray(low, float) < np.asarray(high, float)", "test_fields.py::test_a_locked_dimension_always_has_its_value"),
    ("_checks.py", "tuple(map(operator.index, shape))", "tuple(shape)", "test_fields.py::test_a_shape_of_actions_that_is_none_is_refused"),
    ("_fields.py", "jax.lax.stop_gradient(b).astype", "b.astype", "test_fields.py::test_bounds_are_not_trained"),
    ("_jit_sampler.py", "options, obs, draw), key", "options, obs, draw), draw", "test_jit_sampler.py::test_it_is_sample_with_half_of_the_key_and_returns_the_other"),
    ("_jit_sampler.py", "        check_key(key)  #", "        #", "test_jit_sampler.py::test_what_is_no_key_is_refused"),
    # The estimators.
    ("guidance.py", "return action_gradient(critic, obs, one_step(policy, obs, a_t, t))", "return action_gradient(critic, obs, a_t)", "test_guidance.py::test_looking_one_step_ahead_is_qgf"),
    ("guidance.py", "jax.vjp(lambda a: one_step(policy, obs, a, t),", "jax.vjp(lambda a: a + (1 - t) * jax.lax.stop_gradient(one_step(policy, obs, a, t)),", "test_guidance.py::test_exact_jacobians_equal_central_differences"),
    ("guidance.py", "(1 - t) ** 2 / t * carry_back", "(1 - t) / t * carry_back", "test_guidance.py::test_curvature_takes_only_times_below_its_earliest_as_that"),
    ("guidance.py", "residual - length * image", "residual + length * image", "test_guidance.py::test_curvature_reaches_the_tilted_law_where_qgf_does_not"),
    ("guidance.py", "earliest: float = 0.05", "earliest: float = 0.2", "test_guidance.py::test_curvature_takes_only_times_below_its_earliest_as_that"),
    ("guidance.py", "(left @ right).T @ g", "(left @ right) @ g", "test_guidance.py::test_estimator_equals_numpy"),
    ("guidance.py", "jnp.exp(-as_number(\"kappa\"", "jnp.exp(as_number(\"kappa\"", "test_guidance.py::test_a_gate_falls_with_the_disagreement_of_the_critics"),
    ("guidance.py", "asked_at(critic, one_step(policy, obs, a_t, t))", "one_step(policy, obs, a_t, t)", "test_guidance.py::test_a_gate_asks_the_members_where_the_bounded_critic_is_asked"),
    ("guidance.py", "(1 - shrinkage) * carry_back(g)[0] + shrinkage * g", "carry_back(g)[0]", "test_guidance.py::test_shrinkage_goes_from_the_exact_jacobian_to_the_identity"),
    ("guidance.py", "temperature * jax.nn.logsumexp", "jax.nn.logsumexp", "test_guidance.py::test_monte_carlo_with_the_gaussian_posterior_reaches_the_tilted_law"),
    ("guidance.py", "t**2 * data_std**2) ** 0.5", "t**2 * data_std**2)", "test_guidance.py::test_monte_carlo_with_the_gaussian_posterior_reaches_the_tilted_law"),
    ("guidance.py", "time = t + (1 - t) * k / steps", "time = t + 0 * k", "test_guidance.py::test_estimator_equals_numpy"),
    ("guidance.py", "a_t + noise, t)[1]", "a_t, t)[1]", "test_guidance.py::test_estimator_equals_numpy"),
    ("guidance.py", "point = jnp.append(jnp.ravel(a_t), ", "point = jnp.append(0 * jnp.ravel(a_t), ", "test_guidance.py::test_random_directions_are_a_fresh_draw_for_every_sample"),
    ("guidance.py", "timed_value(robust_critic, obs, a, t))(a_t)", "timed_value(robust_critic, obs, a, 1.0))(a_t)", "test_guidance.py::test_robust_guidance_with_the_soft_value_is_the_tilted_velocity"),
    # The weights.
    ("weights.py", "self.largest / jnp.where(unit == 0, 1, unit)", "self.largest", "test_weights.py::test_weights_by_hand"),
    ("weights.py", "weight_at(self.weight, t, v, g) * self.mask", "self.mask", "test_weights.py::test_weights_compose"),
    ("weights.py", "(t < self.last)", "(t <= self.last)", "test_weights.py::test_weights_by_hand"),
    ("weights.py", "largest: float | Float[Array, \"\"] = 10.0", "largest: float | Float[Array, \"\"] = 100.0", "test_weights.py::test_the_cap_is_ten_unless_told_otherwise"),
    ("weights.py", "norm(weight * (g / size))", "norm(g / size)", "test_weights.py::test_weights_by_hand"),
    # Beyond one chain.
    ("steering.py", "value - jnp.where(jnp.isinf(before), 0, before)", "value", "test_steering.py::test_fk_steering_reaches_the_tilted_law"),
    ("steering.py", "jnp.where(few, 0, log_weight)", "log_weight", "test_steering.py::test_fk_steering_reaches_the_tilted_law"),
    ("steering.py", "few = 1 / jnp.sum(weight**2) < threshold * count", "few = jnp.array(True)", "test_steering.py::test_below_the_threshold_nothing_is_resampled_and_the_weights_add_up_to_the_value"),
    ("steering.py", "noise = (a_t - t * action)[chosen] / (1 - t)", "noise = (a_t - t * action) / (1 - t)", "test_steering.py::test_a_resampled_particle_takes_its_noise_along"),
    ("steering.py", "(jax.random.uniform(key, dtype=weight.dtype) + marks) / count", "jax.random.uniform(key, marks.shape, weight.dtype)", "test_steering.py::test_resampling_copies_a_particle_as_often_as_its_share_says_rounded"),
    ("steering.py", "jax.random.split(jax.random.fold_in(walk_key, k))", "jax.random.split(walk_key)", "test_steering.py::test_the_walk_of_the_particles_has_the_flows_marginals"),
    ("steering.py", "    actions = jax.vmap(partial(asked_at, critic))(actions)", "    pass", "test_steering.py::test_fk_steering_resamples_only_what_has_value_and_keeps_bounds"),
    ("steering.py", "jnp.maximum(1 - kept**2, 0)", "jnp.maximum(1 - kept, 0)", "test_steering.py::test_churn_is_the_eta_of_ddim"),
    ("steering.py", "carry_back(mask * missing)", "carry_back(missing)", "test_steering.py::test_inpainting_equals_its_closed_form"),
    ("steering.py", "plain + weight * (better - plain)", "better + weight * (better - plain)", "test_steering.py::test_classifier_free_guidance_mixes_the_two_velocities"),
    ("steering.py", "jnp.concatenate([guided, plain])", "guided", "test_steering.py::test_keeping_the_best_is_never_below_guidance_nor_below_the_flow"),
    ("steering.py", "return asked_at(critic, a + size * action_gradient(critic, obs, a)), None", "return a + size * action_gradient(critic, obs, a), None", "test_steering.py::test_grad_step_equals_the_recursion_in_numpy"),
    # Densities.
    ("likelihood.py", "_log_normal(noise) + integral", "_log_normal(noise) - integral", "test_likelihood.py::test_the_log_density_of_a_mixture_is_its_closed_form"),
    ("likelihood.py", "_log_normal(noise) - integral", "_log_normal(noise) + integral", "test_likelihood.py::test_the_kl_of_two_gaussians_is_its_closed_form"),
    ("likelihood.py", "jnp.std(ratios, ddof=1) / samples**0.5", "jnp.std(ratios, ddof=1)", "test_likelihood.py::test_the_kl_of_two_gaussians_is_its_closed_form"),
    ("likelihood.py", "jnp.mean(jax.vmap(lambda e: jnp.vdot(e, derivative(e)))(signs))", "jnp.sum(jax.vmap(lambda e: jnp.vdot(e, derivative(e)))(signs))", "test_likelihood.py::test_hutchinsons_estimate_is_exact_for_a_diagonal_jacobian_and_unbiased_for_others"),
    # The networks and the losses.
    ("nn/_ensemble.py", "reduce: Callable[[Float[Array, \" size\"]], Scalar] = jnp.min", "reduce: Callable[[Float[Array, \" size\"]], Scalar] = jnp.mean", "test_nn.py::test_an_ensemble_is_its_members_reduced"),
    ("nn/_mlp.py", "[k < depth - 1 for k in range(_size(\"depth\", depth))]", "[True] * depth", "test_nn.py::test_the_policys_last_hidden_layer_has_no_norm"),
    ("nn/_mlp.py", "eps=1e-6", "eps=1e-2", "test_nn.py::test_the_network_is_dense_norm_gelu_and_a_head"),
    ("nn/_ensemble.py", "jnp.mean(values) - self.rho", "jnp.mean(values) + self.rho", "test_nn.py::test_the_lower_bound_by_hand"),
    ("nn/_ensemble.py", "rho: float = 0.5", "rho: float = 1.0", "test_nn.py::test_the_lower_bound_by_hand"),
    ("nn/_ensemble.py", "tuple(make(k) for k in jax.random.split(key, size))", "tuple(make(key) for _ in range(size))", "test_nn.py::test_an_ensemble_is_its_members_reduced"),
    ("nn/_ensemble.py", "least = jnp.argmin(jnp.stack(values))", "least = jnp.argmax(jnp.stack(values))", "test_jit_sampler.py::test_the_least_members_gradient_is_the_minimums"),
    ("nn/_mlp.py", "head_init=lecun_normal()", "head_init=_hidden_init", "test_nn.py::test_initial_kernels_have_the_papers_scales"),
    ("nn/_pictures.py", "(255 if picture.dtype == jnp.uint8 else 1)", "255", "test_pictures.py::test_the_encoder_is_impalas_by_hand"),
    ("nn/_pictures.py", "same = tuple((n % 2, 1) for n in size)", "same = tuple((1, 1) for n in size)", "test_pictures.py::test_the_encoder_is_impalas_by_hand"),
    ("nn/_pictures.py", "return _Given(given(self.net, seen), seen)", "return self", "test_pictures.py::test_a_picture_is_encoded_once_an_action"),
    ("data/augment.py", "0, 2 * pixels + 1)", "0, 2 * pixels)", "test_pictures.py::test_a_crop_is_a_shift_and_all_shifts_are_drawn"),
    ("learn/_updates.py", "obs, next_obs = crop((rows.obs, rows.next_obs), keys)", "obs, next_obs = crop((rows.obs, rows.obs), keys)", "test_pictures.py::test_each_chunk_is_cropped_by_a_shift_of_its_own"),
    ("learn/_layout.py", "jnp.ravel(leaf) for leaf, picture in pairs if not picture", "jnp.ravel(leaf) for leaf, picture in pairs[::-1] if not picture", "test_units.py::test_observations_that_are_a_dict_are_laid_end_to_end"),
    ("objectives.py", "jnp.where(difference < 0, 1 - expectile, expectile)", "jnp.where(difference < 0, expectile, 1 - expectile)", "test_objectives.py::test_expectile_signs_by_hand"),
    ("objectives.py", "- now, expectile)", "- now, 0.9)", "test_objectives.py::test_the_value_loss_has_the_expectile_it_is_given"),
    ("objectives.py", "    later = value_of(target, next_obs, next_action)\n    backup = stop_gradient(", "    later = value_of(target, next_obs, next_action)\n    backup = (", "test_objectives.py::test_nothing_is_differentiated_through_a_target"),
    ("objectives.py", "(stop_gradient(value_of(target, obs, action)) - value) / temp", "(value_of(target, obs, action) - value) / temp", "test_objectives.py::test_nothing_is_differentiated_through_a_target"),
    ("objectives.py", "stop_gradient(as_scalar(\"advantage\", advantage, \"is\")) > 0", "stop_gradient(as_scalar(\"advantage\", advantage)) >= 0", "test_objectives.py::test_an_action_that_is_just_average_is_not_better"),
    ("objectives.py", "(1 - t) * noise + t * action", "t * noise + (1 - t) * action", "test_objectives.py::test_flow_matching_is_its_formula"),
    ("objectives.py", "jax.random.normal(noise_key, action", "jax.random.normal(time_key, action", "test_objectives.py::test_flow_matching_is_its_formula"),
    ("objectives.py", "(1 - share) * old + share * new", "share * old + (1 - share) * new", "test_objectives.py::test_polyak_moves_every_array_by_its_rate"),
    ("objectives.py", "jnp.expm1(difference) - difference", "jnp.expm1(-difference) + difference", "test_objectives.py::test_linex_by_hand"),
    ("objectives.py", "better * error(1) + share", "error(1) + share", "test_objectives.py::test_cfgrl_conditions_only_what_is_better_than_average"),
    ("objectives.py", "jax.random.randint(key, (), 0, steps + 1)", "jax.random.randint(key, (), 0, steps)", "test_objectives.py::test_times_are_drawn_from_the_interval_or_from_the_grid"),
    # Training.
    ("learn/critics/iql.py", "iql_value(value, nets.kept,", "iql_value(value, critic,", "test_train.py::test_the_update_has_the_discount_batch_seed_and_expectile_of_the_config"),
    ("learn/critics/iql.py", "{\"expectile\": self.expectile}", "{\"expectile\": 0.9}", "test_train.py::test_the_update_has_the_discount_batch_seed_and_expectile_of_the_config"),
    ("learn/_updates.py", "partial(make_chunk, gamma=config.gamma)", "partial(make_chunk, gamma=0.99)", "test_train.py::test_the_update_has_the_discount_batch_seed_and_expectile_of_the_config"),
    ("learn/run.py", "if config.time_limit_masks:", "if False:", "test_train.py::test_with_time_limit_masks_training_is_that_on_a_dataset_of_those_masks"),
    ("learn/critics/iql.py", "objectives.polyak(nets.kept, nets.trained[0], self.ema_rate)", "objectives.polyak(nets.kept, nets.trained[0], 0.01)", "test_train.py::test_one_update_is_all_gradients_then_the_average"),
    ("learn/_updates.py", "key = jax.random.fold_in(key, state.step)", "key = jax.random.fold_in(key, 0)", "test_train.py::test_the_noise_of_an_update_is_its_own"),
    ("learn/actors/flow.py", "time = grid if self.paper_time else objectives.uniform_time", "time = objectives.uniform_time", "learn/test_actors.py::test_the_flows_loss_is_flow_matching_and_it_acts_as_the_plain_flow"),
    ("learn/_learner.py", "return optax.adam(self.learning_rate)", "return optax.adam(3e-4)", "test_train.py::test_adam_takes_a_first_step_of_the_learning_rate"),
    ("learn/_updates.py", "init_team(config.team, spec, jax.random.key(config.seed))", "init_team(config.team, spec, jax.random.key(0))", "test_train.py::test_another_seed_begins_with_other_networks"),
    ("learn/_updates.py", "lambda seed: one(seed, step)", "lambda seed: one(0, step)", "test_train.py::test_the_streamed_rows_are_those_of_the_runs_seed"),
    ("learn/critics/iql.py", "\"critic_loss\": sum(each) / len(each)", "\"critic_loss\": sum(each)", "test_train.py::test_one_update_is_all_gradients_then_the_average"),
    ("checkpoint.py", "intact = claimed == _digest(arrays, header)", "intact = True", "test_checkpoint.py::test_a_flipped_byte_never_loads_other_numbers"),
    ("checkpoint.py", "if here is None or here != there:", "if False:", "test_checkpoint.py::test_another_model_is_refused_by_the_first_leaf_that_differs test_checkpoint.py::test_another_time_embedding_of_the_same_size_is_refused"),
    ("checkpoint.py", "    if not known:", "    if False:", "test_checkpoint.py::test_another_format_is_named"),
    ("_files.py", "temporary.unlink(missing_ok=True)", "pass", "test_checkpoint.py::test_a_failed_write_leaves_the_old_file_and_no_leftover"),
    ("_run_folder.py", "line[\"step\"] <= step", "line[\"step\"] < step", "test_train.py::test_stopped_and_resumed_gives_the_same_bits"),
    ("_run_folder.py", "            leftover.unlink()", "            pass", "test_train.py::test_what_a_killed_process_left_half_written_is_cleared"),
    # The data.
    ("data/goals.py", "jax.lax.cummax(met.astype(rows.rewards.dtype))", "met.astype(rows.rewards.dtype)", "data/test_goals.py::test_chunks_with_goals_are_those_of_a_loop"),
    ("data/goals.py", "met &= jnp.arange(len(met)) <= left", "", "data/test_goals.py::test_chunks_with_goals_are_those_of_a_loop"),
    ("data/goals.py", "jnp.where(ended[:, None], 0, rows.actions)", "rows.actions", "data/test_goals.py::test_chunks_with_goals_are_those_of_a_loop"),
    ("data/goals.py", "jnp.where(chunk.success > 0, 0, bootstrap)", "bootstrap", "data/test_goals.py::test_the_goal_exactly_at_the_end_of_a_chunk_counts"),
    ("data/goals.py", "kind < draw.current + draw.future", "kind < draw.future", "data/test_goals.py::test_goals_are_drawn_as_often_as_they_should"),
    ("data/goals.py", "jnp.minimum(starts + ahead, last)", "starts + ahead", "data/test_goals.py::test_goals_of_an_episode_never_leave_it"),
    ("learn/_goals.py", "zip((config.goal_draw, FOR_ACTORS),", "zip((FOR_ACTORS, config.goal_draw),", "learn/test_goal_runs.py::test_goals_of_actors_lie_ahead_and_those_of_critics_are_anywhere"),
    ("learn/_goals.py", "(actors, found.rows)", "(actors, found.rows._replace(episode_end=0 * found.rows.episode_end))", "learn/test_goal_runs.py::test_actors_do_not_imitate_what_comes_after_an_episode"),
    ("learn/actors/flow.py", "goal=self.sees_goal", "goal=True", "learn/test_goal_runs.py::test_the_flow_knows_no_goal_and_all_others_do"),
    ("evaluate/_rollout.py", "1 + number % goals", "1 + (number + 1) % goals", "evaluate/test_goal_tasks.py::test_an_episodes_number_chooses_its_goal"),
    ("_jit_sampler.py", "one = 1 in (", "one = 2 in (", "test_jit_sampler.py::test_the_least_member_is_asked_where_actions_come_one_at_a_time"),
    ("data/_chunks.py", "gamma ** len(rows.rewards)", "gamma", "data/test_chunks.py::test_a_chunk_inside_an_episode_by_hand"),
    ("data/_chunks.py", "jnp.max(rows.terminated)", "rows.terminated[0]", "data/test_chunks.py::test_a_chunk_in_which_the_task_is_solved_does_not_bootstrap"),
    ("data/_chunks.py", "jnp.all(rows.episode_end == 0)", "jnp.all(rows.episode_end[:-1] == 0)", "data/test_chunks.py::test_all_weights_at_once"),
    ("data/_chunks.py", "past, rows = rows >= end,", "past, rows = rows > end,", "data/test_chunks.py::test_a_chunk_whose_last_state_is_not_recorded_has_weight_zero_without_a_terminal_too"),
    ("data/_chunks.py", "discounted_sum(rows.rewards, gamma)", "discounted_sum(rows.rewards * (1 - rows.terminated), gamma)", "data/test_chunks.py::test_a_reward_counts_where_the_task_is_solved_too"),
    ("data/_chunks.py", "jax.random.fold_in(jax.random.key(seed), step)", "jax.random.key(seed)", "data/test_chunks.py::test_a_batch_is_a_pure_function_of_seed_and_step"),
    ("data/_chunks.py", "np.append(np.asarray(dataset.episode_end)[1:], 1)", "np.append(np.asarray(dataset.episode_end)[1:], 0)", "data/test_chunks.py::test_time_limit_masks_cut_at_the_end_and_not_at_success"),
    ("data/_convert.py", "dtype.hasobject or dtype.kind not in \"fiub\"", "False", "data/test_load.py::test_a_bad_file_is_refused_by_file_and_field data/test_load.py::test_a_pickle_is_never_executed"),
    ("data/_convert.py", "not np.isfinite(numbers).all()", "False", "data/test_load.py::test_a_bad_file_is_refused_by_file_and_field"),
    ("data/_convert.py", "intact = _sha256(file) == expected[\"sha256\"]", "pass", "data/test_load.py::test_a_converted_array_that_changed_is_refused"),
    ("data/ogbench/_load.py", "'-val' if split == 'val' else ''", "''", "data/test_load.py::test_the_validation_split_is_the_validation_file"),
    ("data/_collecting.py", "range(_VALIDATION_FROM, _VALIDATION_FROM + max(1, episodes // 10))", "range(max(1, episodes // 10))", "data/test_collect.py::test_the_validation_episodes_are_none_of_the_training_episodes"),
    ("data/ogbench/_collect.py", "np.random.default_rng([seed, index])", "np.random.default_rng([index])", "data/test_collect.py::test_an_episodes_start_goals_and_noise_are_those_of_its_seed_and_index"),
    ("data/ogbench/_collect.py", "direction + rng.normal(0, 0.5, direction.shape)", "direction", "data/test_collect.py::test_the_mazes_agent_is_as_noisy_as_ogbenchs"),
    ("data/ogbench/_collect.py", "return {across, along} == {(0, 0), (1, 1)}", "return False", "data/test_collect.py::test_goals_of_the_maze_are_all_free_cells_but_straight_corridors"),
    ("data/_environment.py", "    np.random.seed(words[0])", "    np.random.seed(0)", "evaluate/test_evaluate.py::test_every_source_of_randomness_is_seeded_by_all_of_the_entropy"),
    # Episodes and experiments.
    ("evaluate/sampler.py", "jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), number), count)", "jax.random.fold_in(jax.random.key(seed), number)", "evaluate/test_evaluate.py::test_the_noise_is_a_function_of_seed_episode_and_chunk_and_not_of_the_batch"),
    ("evaluate/_rollout.py", "seed_everything(env, seed, number)", "seed_everything(env, seed, 0)", "evaluate/test_evaluate.py::test_all_randomness_of_an_episode_is_its_seed_and_number"),
    ("evaluate/_rollout.py", "self.success or bool(success)", "bool(success) or self.length > 3", "evaluate/test_evaluate.py::test_an_environment_that_breaks_is_a_failure_and_reported"),
    ("evaluate/_rollout.py", "self.success or bool(success)", "bool(success)", "evaluate/test_evaluate.py::test_a_success_counts_though_the_environment_goes_on"),
    ("evaluate/names.py", "match[1] or \"flow\"", "\"flow\"", "evaluate/test_names.py::test_methods_are_known_by_name"),
    ("evaluate/names.py", "number, best_of, steps,", "number, 1, steps,", "evaluate/test_names.py::test_methods_are_known_by_name"),
    ("evaluate/sampler.py", "return eqx.Partial(estimator, steps=steps)", "return estimator", "evaluate/test_names.py::test_a_method_binds_its_own_steps"),
    ("learn/critics/iql.py", "return Judges(guides, nets.kept.values,", "return Judges(guides, online.values,", "evaluate/test_evaluate.py::test_it_is_the_target_ensemble_that_guides"),
    ("evaluate/sampler.py", "Reduced(values, self.reduce)", "Reduced(values)", "test_cli.py::test_two_ways_to_reduce_the_critics_are_two_evaluations"),
    ("evaluate/statistics.py", "_LEVEL = 0.95", "_LEVEL = 0.9", "evaluate/test_evaluate.py::test_the_interval_of_a_difference_is_bonett_and_prices"),
    ("evaluate/comparison.py", "start = first + PER_RUN * i", "start = first", "evaluate/test_evaluate.py::test_every_run_and_tuning_and_reporting_have_episodes_of_their_own"),
    ("evaluate/comparison.py", "{\"steps\": steps, \"reduce\": reduce, \"actors\": actors}", "{\"steps\": steps, \"actors\": actors}", "evaluate/test_evaluate.py::test_the_best_weight_of_the_tuning_episodes_is_the_one_that_is_reported"),
    ("learn/actors/edp.py", "a_t + (1 - t) * v)", "a_t - (1 - t) * v)", "learn/test_actors.py::test_edps_gradient_is_the_critics_at_the_leap_and_zero_where_it_is_clipped"),
    ("learn/actors/edp.py", "judges.critic.to_bounds(", "(", "learn/test_actors.py::test_edps_gradient_is_the_critics_at_the_leap_and_zero_where_it_is_clipped"),
    ("learn/actors/fql.py", "stop_gradient(denoise(flow, obs, z, 0, steps=self.steps))", "denoise(flow, obs, z, 0, steps=self.steps)", "learn/test_actors.py::test_fqls_flow_is_cloned_and_only_cloned"),
    ("learn/actors/fql.py", "\"q_loss\": -jnp.mean(values)", "\"q_loss\": -jnp.min(values)", "learn/test_actors.py::test_fqls_one_step_policy_is_the_flow_and_a_step_up_the_mean_of_the_critics"),
    ("learn/actors/qam.py", "g = -self.inverse_temperature", "g = self.inverse_temperature", "learn/test_actors.py::test_qams_losses_train_the_base_by_cloning_and_the_fine_flow_by_the_mean_critic learn/test_actors.py::test_the_fixed_point_of_adjoint_matching_is_the_tilted_flow"),
    ("learn/actors/qam.py", "return jnp.sqrt(2 * (1 - t + h) / (t + h))", "return jnp.sqrt((1 - t + h) / (t + h))", "learn/test_actors.py::test_the_paths_end_has_the_flows_law_and_forgets_its_noise"),
    ("learn/actors/qam.py", "drift = lambda x: 2 * velocity(base, obs, x, t) - x / t", "drift = lambda x: velocity(base, obs, x, t) - x / t", "learn/test_actors.py::test_the_lean_adjoint_is_the_gradient_through_the_chain_of_the_base_flow"),
    ("learn/actors/qam.py", "memoryless_path(base, given(_frozen(fine), obs)", "memoryless_path(base, base", "learn/test_actors.py::test_qams_losses_train_the_base_by_cloning_and_the_fine_flow_by_the_mean_critic"),
    ("learn/actors/dac.py", "signal_and_noise(k)[1] * jnp.sum", "jnp.sum", "learn/test_actors.py::test_the_pointwise_minimisers_of_the_diffusion_actors"),
    ("learn/actors/qsm.py", "-self.kappa * g - found", "self.kappa * g - found", "learn/test_actors.py::test_the_pointwise_minimisers_of_the_diffusion_actors"),
    ("learn/actors/cfgrl.py", "judges.critic(obs, action) - judges.value(obs)", "judges.value(obs) - judges.critic(obs, action)", "learn/test_actors.py::test_cfgrls_condition_is_whether_q_is_above_v"),
    ("learn/_ddpm.py", "beta / spread * eps_at", "beta * eps_at", "learn/test_actors.py::test_ancestral_sampling_is_its_recursion_and_reaches_the_data"),
    ("learn/actors/fql.py", "judges.newest(obs, judges", "judges.values(obs, judges", "learn/test_actors.py::test_fql_qam_and_ifql_ask_the_critics_that_are_trained_and_not_their_average"),
    ("learn/actors/qam.py", "jnp.mean(judges.newest(obs, action))", "jnp.mean(judges.values(obs, action))", "learn/test_actors.py::test_fql_qam_and_ifql_ask_the_critics_that_are_trained_and_not_their_average"),
    ("learn/actors/ifql.py", "jnp.mean(judges.newest(obs, action))", "jnp.mean(judges.values(obs, action))", "learn/test_actors.py::test_fql_qam_and_ifql_ask_the_critics_that_are_trained_and_not_their_average"),
    ("learn/actors/qam_edit.py", "-jnp.mean(judges.newest", "jnp.mean(judges.newest", "learn/test_actors.py::test_the_edit_climbs_the_mean_critic_within_its_size_and_the_bounds"),
    ("learn/actors/qam_edit.py", "chunk.obs, stop_gradient(drawn), judges", "chunk.obs, drawn, judges", "learn/test_actors.py::test_the_edit_does_not_train_the_flows"),
    ("learn/actors/qam_edit.py", "return judges.critic.to_bounds(action + change)", "return action + change", "learn/test_actors.py::test_the_edit_climbs_the_mean_critic_within_its_size_and_the_bounds"),
    ("learn/actors/distill.py", "\"weight\": self.weight", "\"weight\": 0", "learn/test_actors.py::test_the_students_law_is_the_teachers"),
    ("learn/actors/distill.py", "return stop_gradient(judges", "return (judges", "learn/test_actors.py::test_distilling_trains_the_flow_by_cloning_alone_and_the_student_acts_within_the_bounds"),
    ("learn/actors/distill.py", "flow_matching(student, obs, wanted,", "flow_matching(student, obs, chunk.action,", "learn/test_actors.py::test_the_students_law_is_the_teachers"),
    ("learn/critics/sarsa.py", "setting(0.5, least=0.5, most=0.5)", "setting(0.9, most=1)", "learn/test_critics.py::test_sarsa_evaluates_the_behaviour"),
    ("learn/critics/dqc.py", "jnp.where(chunk.success > 0, 0,", "jnp.where(chunk.success > 9, 0,", "learn/test_critics.py::test_dqcs_losses_by_hand_and_what_they_do_not_differentiate"),
    ("learn/critics/dqc.py", "target = stop_gradient(jnp.clip(chunk.success + bootstrap, 0, 1))", "target = jnp.clip(chunk.success + bootstrap, 0, 1)", "learn/test_critics.py::test_dqcs_losses_by_hand_and_what_they_do_not_differentiate"),
    ("learn/critics/dqc.py", "jnp.where(above, self.distil, 1 - self.distil)", "jnp.where(above, 1 - self.distil, self.distil)", "learn/test_critics.py::test_dqc_reaches_the_backup_of_h_steps_distilled_to_chunks_of_one"),
    ("learn/critics/dqc.py", "old_long(chunk.obs, chunk.action)", "long(chunk.obs, chunk.action)", "learn/test_critics.py::test_dqcs_losses_by_hand_and_what_they_do_not_differentiate"),
    ("learn/critics/dqc.py", "jnp.maximum(self.quantile * gap, (self.quantile - 1) * gap)", "jnp.maximum((1 - self.quantile) * gap, -self.quantile * gap)", "learn/test_critics.py::test_dqcs_losses_by_hand_and_what_they_do_not_differentiate"),
    ("data/_chunks.py", "jnp.append(rows.terminated, rows.next_terminated) > 0", "rows.terminated > 0", "data/test_chunks.py::test_success_is_discounted_to_the_step_of_the_end_that_of_the_last_state_too learn/test_critics.py::test_dqc_reaches_the_backup_of_h_steps_distilled_to_chunks_of_one"),
    ("data/_chunks.py", "rows.episode_end[:horizon] == 0", "rows.episode_end == 0", "data/test_chunks.py::test_the_first_actions_of_a_longer_chunk_may_be_whole_where_it_is_not"),
    ("learn/_updates.py", "arrays, metrics = jax.vmap(update, (axis, 0, 0))(rows, each, arrays)", "arrays, metrics = jax.vmap(update, (axis, 0, 0))(rows, 0 * each, arrays)", "evaluate/test_team_runs.py::test_seeds_trained_together_are_seeds_trained_apart"),
    ("learn/run.py", "run.state = one_of(state, i)", "run.state = one_of(state, 0)", "evaluate/test_team_runs.py::test_seeds_trained_together_are_seeds_trained_apart"),
    ("learn/_devices.py", "PartitionSpec(\"batch\")", "PartitionSpec(\"batch\", \"batch\")", "learn/test_devices.py::test_four_devices_are_one_and_a_run_goes_on_on_another_number"),
    ("learn/_kinds.py", "settings[found.strength] = float(number)", "settings[found.strength] = 1.0", "evaluate/test_team_runs.py::test_a_run_of_several_actors_is_read_back_with_all_of_them"),
    ("evaluate/_sources.py", "action = self.units.from_action(self.flow_units.to_action(action))", "action = self.flow_units.to_action(action)", "evaluate/test_team_runs.py::test_a_flow_is_guided_by_the_critic_of_another_run_for_another_reward"),
    ("evaluate/_actors.py", "asked_at(critic, policy.act(", "(policy.act(", "evaluate/test_team_runs.py::test_an_actor_draws_the_same_action_by_itself_and_as_a_method"),
    ("learn/critics/td.py", "objectives.td_critic(member, nets.kept,", "objectives.td_critic(member, nets.trained,", "learn/test_critics.py::test_tds_target_is_the_mean_less_half_a_deviation_of_the_targets_members"),
    ("learn/loop.py", "chunk.weight * loss", "loss", "learn/test_loop.py::test_a_chunk_of_no_weight_counts_for_nothing"),
    ("learn/loop.py", "zlib.crc32(name.encode())", "0", "learn/test_loop.py::test_learners_of_one_kind_have_networks_and_noise_of_their_own"),
    ("evaluate/_tuning.py", "        tried += todo\n", "        tried = todo\n", "evaluate/test_tuning.py::test_all_that_was_played_is_scored_again_in_every_round"),
    ("evaluate/_policy.py", "units.to_action(sampler(policy, critic, obs, key))", "sampler(policy, critic, obs, key)", "test_units.py::test_the_policy_in_one_line_acts_in_the_environments_units_and_bounds"),
    ("evaluate/_offline.py", "(units.from_action(jnp.asarray(edge)) for edge in edges)", "(jnp.asarray(-99.0), jnp.asarray(99.0))", "evaluate/test_own_task.py::test_the_trained_policy_is_one_function_that_acts_as_evaluate_plays"),
    ("evaluate/_tuning.py", "scores[weight] == max(scores.values())", "scores[weight] == min(scores.values())", "evaluate/test_evaluate.py::test_the_best_weight_of_the_tuning_episodes_is_the_one_that_is_reported"),
    # What is said of a result.
    ("analysis.py", "norm(added) / norm(v)", "norm(g) / norm(v)", "test_analysis.py::test_diagnostics_by_hand"),
    ("analysis.py", "weights[max(within, key=strength)]", "weights[min(within, key=strength)]", "test_analysis.py::test_the_strongest_weight_within_the_budget_is_chosen_in_one_trace"),
    ("analysis.py", "jnp.std(spent, axis=1, ddof=1)) / count**0.5", "jnp.std(spent, axis=1, ddof=1))", "test_analysis.py::test_the_error_of_a_weights_measure_is_that_of_the_mean"),
    ("analysis.py", "a_t + std * jax", "a_t - 2 * std * jax", "test_analysis.py::test_the_cosine_under_noise_by_closed_form"),
    ("analysis.py", "jnp.sqrt(jnp.min(jnp.mean(", "jnp.sqrt(jnp.max(jnp.mean(", "test_analysis.py::test_values_are_those_of_the_actions_by_both_critics"),
    ("analysis.py", "value_of(judge, obs", "value_of(critic, obs", "test_analysis.py::test_values_are_those_of_the_actions_by_both_critics"),
    ("analysis.py", "(plain - plain.mean(0)[None]) ** 2", "plain ** 2", "test_analysis.py::test_the_starting_weight_is_the_flows_spread_over_the_slope"),
    ("analysis.py", "jnp.mean(spread) / jnp.mean(slope)", "jnp.mean(spread) * jnp.mean(slope)", "test_analysis.py::test_the_starting_weight_is_the_flows_spread_over_the_slope"),
    ("analysis.py", "elif moved > strong * own", "elif moved > 100 * strong * own", "test_analysis.py::test_the_warning_rule_says_too_weak_and_very_strong"),
    ("analysis.py", "weak: float = 0.1, strong", "weak: float = 0.01, strong", "test_analysis.py::test_the_limits_of_the_warnings_are_shares_of_the_spread_over_the_noises"),
    ("analysis.py", "plain.mean(1, keepdims=True)", "plain.mean((0, 1), keepdims=True)", "test_analysis.py::test_the_limits_of_the_warnings_are_shares_of_the_spread_over_the_noises"),
    ("analysis.py", "np.mean(found.clipped[..., -1])", "np.mean(found.clipped)", "test_analysis.py::test_only_what_is_clipped_in_the_end_is_warned_of"),
    ("flops.py", "eqn.params[\"length\"] * each", "each", "test_flops.py::test_products_scans_and_batches"),
    ("flops.py", "tuple(reads)), node)", "tuple(reads), id(node)), node)", "test_flops.py::test_what_is_computed_twice_is_counted_once_through_calls_too"),
    ("flops.py", "return max(region.total(outputs) for region in node.regions)", "return min(region.total(outputs) for region in node.regions)", "test_flops.py::test_the_dearest_branch_counts"),
    ("flops.py", "max(region.total(outputs) for region in node.regions)", "max(region.total() for region in node.regions)", "test_flops.py::test_of_a_checkpointed_gradient_only_what_is_used_is_counted"),
    ("flops.py", "products = out[batch] * out[features] * kernel[spec.rhs_spec[1]]", "products = out[batch] * out[features]", "test_flops.py::test_a_convolution_multiplies_no_zeros_of_its_padding_and_dilations"),
    ("figures.py", "starts[ends[starts + horizon] == ends[starts]]", "starts", "test_figures.py::test_the_chunks_that_are_analysed_are_whole"),
    ("figures.py", "a_t = (1 - t) * start + t * action", "a_t = t * start + (1 - t) * action", "test_figures.py::test_the_points_of_the_noise_analysis_go_from_noise_to_the_action"),
    ("plot.py", "np.abs(scaled[1:] - scaled[0])", "np.abs(scaled[1:])", "test_plot.py::test_bars_are_percent_and_reach_from_the_lower_end_to_the_upper"),
    ("film.py", "_GREEN if success else _GREY", "_GREY if success else _GREEN", "test_cli.py::test_the_last_picture_of_an_episode_says_how_it_ended"),
    ("film.py", "panel[min(i, len(panel) - 1)]", "panel[i % len(panel)]", "test_cli.py::test_a_panel_whose_episode_has_ended_stands_still"),
    ("_provenance.py", "f\"{commit} with changes\" if changed else commit", "commit", "test_provenance.py::test_the_commit_of_a_result_says_whether_the_code_was_changed"),
    # On a robot, over tasks.
    ("_diffusion.py", "(x - noise * found) / signal", "(x + noise * found) / signal", "test_diffusion.py::test_the_velocity_is_the_flows"),
    ("_diffusion.py", "signal * x - noise * found", "signal * x + noise * found", "test_diffusion.py::test_the_velocity_is_the_flows"),
    ("_diffusion.py", "x = a_t / _size(t)", "x = a_t", "test_diffusion.py::test_the_velocity_is_the_flows"),
    ("_diffusion.py", "jnp.clip(t, times[-1], times[0])", "t", "test_diffusion.py::test_at_both_ends_it_is_finite_and_near_the_flows"),
    ("_diffusion.py", "jnp.clip(action, -self.clip, self.clip)", "action", "test_diffusion.py::test_a_predicted_action_is_clipped"),
    ("deploy/_act.py", "            if self._since:  # or this tick has waited for it\n                self", "            if True:\n                self", "deploy/test_control_loop.py::test_drawn_ahead_the_next_chunk_is_taken_up_at_the_row_that_is_due"),
    ("deploy/_act.py", "if self._take(found, self._since):", "if self._take(found, 0):", "deploy/test_control_loop.py::test_drawn_ahead_the_next_chunk_is_taken_up_at_the_row_that_is_due"),
    ("deploy/_act.py", "old[:left] = self._chunk.own[self._at :]", "old[:left] = self._chunk.own[:left]", "deploy/test_control_loop.py::test_drawn_ahead_the_next_chunk_is_taken_up_at_the_row_that_is_due"),
    ("deploy/_act.py", "if found.finite and row < self.horizon:", "if row < self.horizon:", "deploy/test_control_loop.py::test_where_the_critic_is_nan_the_plain_flow_acts_and_is_counted"),
    ("deploy/_act.py", "self._next, self._plain = None, True", "self._plain = True", "deploy/test_control_loop.py::test_a_chunk_that_was_given_up_does_not_displace_the_plain_one"),
    ("deploy/_draws.py", "Mask(options.get(\"weight\", 0.1), 1 - mask)", "options.get(\"weight\", 0.1)", "deploy/test_control_loop.py::test_the_following_chunk_is_the_inpainted_flows"),
    ("deploy/_draws.py", "    free = low < high\n", "    free = low <= high\n", "deploy/test_control_loop.py::test_clipped_numbers_are_counted_and_locked_dimensions_are_not"),
    ("deploy/_observation.py", "        wrong = np.argwhere(cast != found)", "        wrong = np.argwhere(cast != cast)", "deploy/test_control_loop.py::test_pictures_are_bytes"),
    ("deploy/_wire.py", "        if dtype.kind not in \"biuf\":\n            raise WireError", "        if False:\n            raise WireError", "deploy/test_serve.py::test_what_cannot_be_read_is_answered_by_a_sentence"),
    ("data/ogbench/_goals.py", "first + _BUTTON * i + 1", "first + _BUTTON * i", "evaluate/test_goal_tasks.py::test_an_oracle_goal_is_the_part_of_a_state_that_the_task_is_about"),
    ("data/goals.py", "np.append(np.concatenate(pieces), rows - 1)", "np.concatenate(pieces)", "data/test_goals.py::test_last_rows_are_those_of_the_episodes"),
    ("evaluate/across.py", "stats.trim_mean(np.concatenate(runs[0]), 0.25)", "np.mean(np.concatenate(runs[0]))", "evaluate/test_across.py::test_averages_are_those_of_the_formulas"),
    ("evaluate/across.py", "np.sqrt(fewest / (fewest - 1)) * stats.t.ppf((1 + _LEVEL) / 2, _freedom(means))", "1.96", "evaluate/test_across.py::test_intervals_cover_the_truth_in_simulated_studies"),
    ("evaluate/across.py", "drawn[best, :, count:].mean()", "drawn[best, :, :count].mean()", "evaluate/test_across.py::test_a_larger_budget_chooses_better_and_is_scored_on_other_episodes"),
    # The command line.
    ("cli/_make.py", "\"transitions\": transitions, \"seed\": seed,", "\"transitions\": transitions,", "test_cli.py::test_the_options_of_collect_reach_the_library"),
    ("cli/_train.py", "{\"save_every\": save_every} |", "{} |", "test_cli.py::test_the_options_of_train_reach_the_library"),
    ("cli/_train.py", "{\"streamed\": True, \"updates_per_call\": 50} if stream", "{} if stream", "test_cli.py::test_the_options_of_train_reach_the_library"),
    ("cli/_compare.py", "        steps=flow.steps,\n        reduce=flow.reduction,\n        task=task.env,\n        critics", "        reduce=flow.reduction,\n        task=task.env,\n        critics", "test_cli.py::test_the_options_of_evaluate_and_choose_reach_the_library"),
    ("cli/_budget.py", "jax.tree_util.Partial(kind, steps=flow.steps)", "kind", "test_cli.py::test_the_options_of_an_offline_choice_reach_the_library"),
    ("cli/_offline.py", "recorded, \"val\")", "recorded, \"train\")", "test_cli.py::test_the_options_of_an_offline_choice_reach_the_library"),
    ("deploy/_act.py", "self._take(found, self._spare_since)", "self._take(found, 0)", "deploy/test_control_loop.py::test_a_plain_chunk_is_ready_when_the_last_row_is_over"),
    ("deploy/_act.py", "(self._plain or self._at >= self.execution_horizon)", "self._at >= self.execution_horizon", "deploy/test_control_loop.py::test_a_chunk_that_was_given_up_does_not_displace_the_plain_one"),
    ("deploy/_act.py", "self._spare, self._plain = None, False", "self._plain = False", "deploy/test_control_loop.py::test_a_plain_chunk_that_was_not_needed_is_not_executed"),
    ("suite/_curves.py", "level = KEPT * scores[0]", "level = KEPT", "evaluate/test_suite_curves.py"),
    ("suite/_curves.py", "shares.append(scores / scores.max())", "shares.append(scores)", "evaluate/test_suite_curves.py"),
    ("learn/run.py", "if step == 0 or self.evaluations.last == step:", "if step == 0:", "evaluate/test_tracking.py::test_a_line_of_an_evaluation_is_tracked_and_kept_and_written_once"),
    ("learn/run.py", "        program.evaluate(opened)\n", "", "evaluate/test_tracking.py::test_a_line_of_an_evaluation_is_tracked_and_kept_and_written_once"),
    ("evaluate/periodic.py", "if step % self.every and step != self.updates:", "if step % self.every:", "evaluate/test_tracking.py::test_it_plays_when_it_is_due_and_after_the_last_update"),
    ("evaluate/side_by_side.py", "jnp.mean((actions - plain) ** 2)", "jnp.mean(actions**2)", "evaluate/test_side_by_side.py::test_a_row_is_the_mean_over_actions_that_are_drawn_by_hand"),
    ("evaluate/_controls.py", "jnp.where(start == jnp.inf, 0, start)", "start", "evaluate/test_names.py::test_the_rules_without_a_weight_are_samples_with_that_weight"),
    ("evaluate/_results_file.py", "if found not in (\"0\", \"1\"):", "if False:", "evaluate/test_results.py"),
]  # fmt: skip
MUTANTS = [Mutant(*row) for row in TABLE]


def mutated(mutant: Mutant) -> str:
    text = (ROOT / "qgf_eqx" / mutant.file).read_text()
    if text.count(mutant.right) != mutant.times:
        raise ValueError(
            f"`{mutant.right}` is {text.count(mutant.right)} times in {mutant.file}, "
            f"not {mutant.times}"
        )
    return text.replace(mutant.right, mutant.wrong)


def run_tests(copy: Path, tests: list[str], *, limit: float | None = None) -> tuple[int, str]:
    """The exit code of the tests in a copy, and their output. Out of time is failed."""
    options = ["-x", "-q", "-n0", "-p", "no:cacheprovider"]
    settings = {
        "PYTHONPATH": str(copy),  # before the installed package
        "JAX_COMPILATION_CACHE_DIR": str(copy.parent / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    output = copy / "output.txt"
    with open(output, "w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *options, *(f"tests/{test}" for test in tests)],
            cwd=copy,
            env={**os.environ, **settings},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        RUNNING.add(process.pid)
        try:
            return process.wait(limit), output.read_text()
        except subprocess.TimeoutExpired:
            return FAILED, "FAILED out of time"
        finally:
            _end(process.pid)  # and what the tests have started
            process.wait()


def _end(pid: int) -> None:
    RUNNING.discard(pid)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _stop(folder: str, *_) -> None:
    """On SIGTERM: no test outlives this process, and no copy stays."""
    for pid in list(RUNNING):
        _end(pid)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(128 + signal.SIGTERM)


def judge(copies: SimpleQueue, mutant: Mutant) -> tuple[str, str]:
    """Killed, survived or broken; and by which test, or why."""
    copy = copies.get()
    path = copy / "qgf_eqx" / mutant.file
    right = path.read_text()
    try:
        path.write_text(mutated(mutant))
        code, output = run_tests(copy, mutant.tests.split(), limit=LIMIT)
    finally:
        path.write_text(right)
        copies.put(copy)
    failed = [line.split(" - ")[0] for line in output.splitlines() if line.startswith("FAILED ")]
    if code == PASSED:
        return "SURVIVED", ""
    if code == FAILED or code < 0:  # a signal: it crashed
        return "killed", failed[0].split("::")[-1] if failed else f"exit code {code}"
    return "BROKEN", output[-2000:]  # pytest could not run: the mutant says nothing


def warm(copies: SimpleQueue, tests: list[str]) -> None:
    """Runs tests on the unbroken code, which fills the folder of programs."""
    copy = copies.get()
    code, output = run_tests(copy, tests)
    copies.put(copy)
    if code != PASSED:
        raise SystemExit(f"the tests do not pass unbroken:\n{output[-5000:]}")


def _not_code(folder: str, names: list[str]) -> set[str]:
    """What a copy of the project does without: all but code, at its top."""
    outer = {name for name in names if name.startswith(".") or name in ("runs", "data", "site")}
    return outer if Path(folder) == ROOT else {"__pycache__"}


def shares(tests: set[str], count: int) -> list[list[str]]:
    """The tests in some lists of whole files, of about as many tests."""
    lists: list[list[str]] = [[] for _ in range(count)]
    by_file = [list(group) for _, group in groupby(sorted(tests), lambda t: t.split("::")[0])]
    for group in sorted(by_file, key=len, reverse=True):
        min(lists, key=len).extend([group[0]] if "::" not in group[0] else group)
    return [share for share in lists if share]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("numbers", nargs="*", type=int, help="of mutants; all by default")
    parser.add_argument("--check", action="store_true", help="only whether the code has moved on")
    parser.add_argument("--workers", type=int, default=2, help="mutants at a time")
    arguments = parser.parse_args()
    numbers = arguments.numbers or range(len(MUTANTS))
    chosen = [MUTANTS[number] for number in numbers]
    moved = []
    for number, mutant in enumerate(MUTANTS):
        try:
            mutated(mutant)
        except ValueError as error:
            moved.append(f"mutant {number}: {error}")
        files = {ROOT / "tests" / test.split("::")[0] for test in mutant.tests.split()}
        moved += [f"mutant {number}: there is no {file}" for file in files if not file.exists()]
    if moved:
        raise SystemExit("the code has moved on:\n" + "\n".join(moved))
    if arguments.check:
        return

    start, outcomes = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.workers) as pool:
        signal.signal(signal.SIGTERM, partial(_stop, folder))
        copies: SimpleQueue = SimpleQueue()
        for worker in range(arguments.workers):
            copies.put(shutil.copytree(ROOT, Path(folder) / f"copy{worker}", ignore=_not_code))
        tests = {test for mutant in chosen for test in mutant.tests.split()}
        list(pool.map(partial(warm, copies), shares(tests, arguments.workers)))
        print(f"the tests pass unbroken, {_clock(start)}", flush=True)
        judged = zip(numbers, chosen, pool.map(partial(judge, copies), chosen), strict=True)
        for number, mutant, (outcome, why) in judged:
            outcomes.append(outcome)
            print(
                f"[{len(outcomes):3d} of {len(chosen)}, {_clock(start)}] {number:3d} {outcome:8} "
                f"{mutant.file}: {mutant.wrong!r}  {why}",
                flush=True,
            )
    for number, mutant, outcome in zip(numbers, chosen, outcomes, strict=True):
        if outcome != "killed":
            print(f"{outcome}: {number} {mutant.file}: {mutant.right!r} -> {mutant.wrong!r}")
    killed = outcomes.count("killed")
    share = killed / len(outcomes)
    print(f"{killed} of {len(outcomes)} mutants killed, {share:.1%}, {_clock(start)}")
    sys.exit(share < 0.95)


def _clock(start: float) -> str:
    minutes, seconds = divmod(round(time.perf_counter() - start), 60)
    return f"{minutes:2d} min {seconds:02d} s"


if __name__ == "__main__":
    main()
