"""The page of published texts in a real browser; `make test-browser` runs this."""

import base64
import json
import os
import re
import zlib
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from t3d.reporting import page
from tests.browser.conftest import WIDTHS, load, one, size
from tests.reporting import pages

MARKUP = "\n</script><b>bold</b>"


@pytest.fixture(scope="module")
def texts_alone(tmp_path_factory):
    """The report of the tiny project where texts alone were published, whose answers end with markup."""
    folder, before = tmp_path_factory.mktemp("texts"), Path.cwd()
    os.chdir(folder)
    try:
        made = pages.write_project(folder)
        pages.publish_texts(MARKUP)
        page.write(made, Path("results", "report.html"))
    finally:
        os.chdir(before)
    return folder / "results" / "report.html"


def test_published_texts_are_shown_with_their_verdicts(browser, texts_alone):
    load(browser, texts_alone)
    WebDriverWait(browser, 60).until(lambda _: browser.find_elements(By.CSS_SELECTOR, "#texts-sides .side"))
    Select(one(browser, "#texts-question")).select_by_value("3")
    assert one(browser, "#texts-asked").text == f"3. {pages.QUESTION}"
    assert one(browser, "#texts-expected").text == "Expected: 42"
    rows = [row.text.split()[-4:] for row in browser.find_elements(By.CSS_SELECTOR, ".verdicts tbody tr")]
    assert rows == [["here", "✗", "✗", "✗"], ["–", "✓", "✓", "✗"]]

    def sides():
        found = browser.find_elements(By.CSS_SELECTOR, "#texts-sides .side")
        parts = [[one(box, part).text for part in ("h3", ".verdict", ".answer")] for box in found]
        return [tuple(of_box) for of_box in parts]

    shown = Select(one(browser, "#texts-shown"))
    shown.select_by_visible_text("2 tokens per step, blocks of 8")
    assert sides() == [
        ("Original, 2 tokens per step, blocks of 8", "✗ Wrong", f"teacher/b8s4 says 3{MARKUP}"),
        (f"{pages.LABEL}, 2 tokens per step, blocks of 8", "✓ Right", f"t3d-seed0/b8s4 says 3{MARKUP}"),
    ]
    shown.select_by_visible_text("Original")
    assert [side[1] for side in sides()] == ["Verdict not here", "✗ Wrong", "✗ Wrong", "✗ Wrong"]
    assert browser.get_log("browser") == []
    for width in WIDTHS.values():
        size(browser, width)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_questions_of_humaneval_are_listed_by_their_functions(browser, texts_alone):
    text = texts_alone.read_text()
    packed = re.search(r'"packed": ?"([^"]+)"', text)[1]
    questions = json.loads(zlib.decompress(base64.b64decode(packed)))
    begins = "Complete it in a code block.\n\nfrom typing import List\n\n\n"
    for number, asks in enumerate(questions[:2]):
        asks |= {"id": f"HumanEval/{number}", "text": f"{begins}def f{number}(x):\n    pass\n"}
    questions[2]["text"] = "Write it.\n\ndef h(x):\n"
    changed = texts_alone.with_name("functions.html")
    again = base64.b64encode(zlib.compress(json.dumps(questions).encode())).decode()
    changed.write_text(text.replace(packed, again))
    load(browser, changed)
    WebDriverWait(browser, 60).until(lambda _: browser.find_elements(By.CSS_SELECTOR, "#texts-sides .side"))
    listed = [option.text for option in Select(one(browser, "#texts-question")).options]
    assert listed[:3] == ["HumanEval/0 def f0(x):", "HumanEval/1 def f1(x):", "gsm-2 Write it."]
