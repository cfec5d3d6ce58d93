"""Tasks that a model wrote: distinct, complete, and none that a benchmark asks."""

from t3d.prompts import written


def test_tasks_are_kept_once_and_in_order():
    texts = [
        (" to", " add two numbers of a list."),
        (" to", " Add two numbers of a list"),
        ("A", " b c."),
        ("x", " one two three four"),
    ]
    tasks, left_out = written.tasks(texts, [])
    assert [task.question for task in tasks] == ["to add two numbers of a list.", "x one two three four"]
    assert left_out == {"unmatched": 0, "short": 1, "repeated": 1, "known": 0}
    assert len({task.id for task in tasks}) == 2


def test_a_task_that_shares_eight_words_with_a_benchmark_is_left_out():
    question = "Write a function to find the shared elements from the given two lists."
    eight = " Say how to find the shared elements from the given pair"
    seven = " Say how to get the shared elements from the given two sets"
    tasks, left_out = written.tasks([("", eight), ("", seven)], ["Another question.", question])
    assert [task.question for task in tasks] == [seven.strip()]
    assert left_out["known"] == 1


def test_the_opening_itself_is_no_overlap():
    """Benchmarks and openings may share their instruction."""
    instruction = "Write a Python function. Answer with the whole function in a code block."
    tasks, _ = written.tasks([(instruction, " Reverse every word of a text")], [instruction + " Sum the digits of n"])
    assert len(tasks) == 1


def test_a_pattern_cuts_the_solution_off():
    """The signature with its docstring, whether its quotes stand alone or not; the first paragraph of a sentence."""
    signature = 'add(a, b):\n    """\n    Add two numbers and return it.\n    """\n'
    short = 'sub(a, b):\n    """ Subtract b from a number. """\n'
    texts = [
        ("def ", signature + "    return a + b\n```"),
        ("def ", short + "    return"),
        ("def ", "f(x):\n    return x"),
    ]
    tasks, left_out = written.tasks(texts, [], r'(.*?""".*?""")')
    assert [task.question for task in tasks] == ["def " + signature.strip(), "def " + short.strip()]
    assert left_out["unmatched"] == 1
    paragraph = " reverse every word of a text.\n\n```python\ndef f(x):"
    tasks, _ = written.tasks([("Write a function to", paragraph)], [], r"(.+?)(?:\n\n|\n```|$)")
    assert tasks[0].question == "Write a function to reverse every word of a text."
