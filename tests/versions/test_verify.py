"""Nothing that is learned from is asked."""

import pytest

from t3d.errors import DataError
from t3d.prompts.sets import Prompt
from t3d.versions.verify import check_disjoint


def prompt(name, text, split):
    return Prompt(name, "questions", split, text, [1], "", [], "")


def test_a_question_of_both_splits_is_named():
    train = [prompt("a/0", "What is 1 + 1?", "train"), prompt("a/1", "What is 2 + 2?", "train")]
    check_disjoint([train, [prompt("b/0", "What is 3 + 3?", "test")], [prompt("a/0", "What is 1 + 1?", "train")]])
    with pytest.raises(DataError, match=r"a/1 of split train and b/0 of split test ask the same: 'what is  2 \+ 2\?'"):
        check_disjoint([train, [prompt("b/0", "what is  2 + 2?", "test")]])
    with pytest.raises(DataError, match="a/0 of split train and a/0 of split validation"):
        check_disjoint([train, [prompt("a/0", "Something else", "validation")]])
