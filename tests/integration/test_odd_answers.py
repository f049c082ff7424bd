"""reasoning-gym's scorers behind the verifier: odd answers neither crash them nor earn anything.

`make odd-answers` puts them to all tasks and prints the table of `docs/verifiers.md`; here are those whose scorers did
either, and one of each family.
"""

import pytest

from tests.support.odd_answers import ODD_ANSWERS, Row, rows, task_names

TASKS = (
    *("acre", "aiw", "binary_alternation", "boxnet", "chain_sum", "codeio", "coin_flip", "complex_arithmetic"),
    *("countdown", "course_schedule", "cryptarithm", "figlet_font", "fraction_simplification", "game_of_life"),
    *("game_of_life_halting", "graph_color", "group_anagrams", "gsm_symbolic", "jugs", "knight_swap", "largest_island"),
    *("letter_counting", "list_functions", "palindrome_generation", "polynomial_equations", "prime_factorization"),
    *("propositional_logic", "puzzle24", "rectangle_count", "rush_hour", "sentence_reordering", "spell_backward"),
    *("sudoku", "tower_of_hanoi", "tsumego", "word_ladder", "zebra_puzzles"),
)


def test_there_are_enough_of_both():
    assert len(set(ODD_ANSWERS)) >= 50
    assert set(TASKS) <= set(task_names())


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.filterwarnings("ignore")
def test_odd_answers_earn_nothing_and_crash_nothing(task):
    (row,) = rows([task], prompts_each=1)
    assert row == Row(task, row.reference, 0, ())
    assert row.reference in (None, 1.0)
