"""The report in a real browser: it loads alone, a number opens its provenance, the viewer steps through an answer.

`make test-browser` runs this; `make test` does not. Chromium is driven by Selenium. With T3D_SCREENSHOTS=folder a page
(T3D_REPORT=results/report.html, or the tiny one) is photographed at three widths in light and dark.
"""

import base64
import json
import os
import shutil
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from t3d.provenance import store
from t3d.reporting import page
from t3d.reporting.statistics import wilson
from tests.browser.conftest import WIDTHS, load, one, size
from tests.reporting import helpers, pages


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The tiny project's report."""
    folder, before = tmp_path_factory.mktemp("project"), Path.cwd()
    os.chdir(folder)
    try:
        page.write(pages.write_project(folder), Path("results", "report.html"))
    finally:
        os.chdir(before)
    return folder / "results" / "report.html"


@pytest.fixture
def opened(browser, report):
    """The browser with the report just loaded, nothing logged before."""
    return load(browser, report)


def visible_tokens(browser, side):
    """Texts of the tokens that are not masked, as the page holds them."""
    script = f"return [...document.querySelectorAll('#{side} .token:not(.masked)')].map((token) => token.textContent)"
    return browser.execute_script(script)


def drawn(texts):
    """Token texts as the viewer writes them: a mark before a line break, special tokens without brackets."""
    names = {"<|im_end|>": "im_end", "<|endoftext|>": "endoftext"}
    return [names.get(text, text.replace("\n", "↵\n")) for text in texts]


def test_it_loads_without_an_error_or_a_request(opened):
    assert one(opened, "h1").text == "Few-step diffusion language models: experiment tiny"
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert [url.partition(":")[0] for url in asked if not url.startswith("data:")] == ["file"]
    assert opened.get_log("browser") == []
    assert pages.LABEL in one(opened, "#accuracy").text


def test_a_number_opens_its_provenance_and_escape_closes_it(opened, report):
    button = one(opened, 'button.cell[data-cells="t3d/gsm/b8s4"]')
    button.send_keys(Keys.ENTER)
    dialog = one(opened, "#provenance")
    assert dialog.is_displayed()
    assert "87.5" in one(opened, "#provenance-title").text
    assert "t3d trace results/tiny/accuracy.csv --cell t3d/gsm/b8s4" in dialog.text
    names = [summary.text for summary in dialog.find_elements(By.TAG_NAME, "summary")]
    assert names[:2] == ["scores/t3d-seed0/gsm/b8s4", "answers/t3d-seed0/gsm/b8s4"]
    assert "scores/t3d-seed1/gsm/b8s4" in names
    manifest = report.parents[1] / "data/tiny/scores/t3d-seed0/gsm/b8s4.manifest.json"
    assert store.sha256(manifest) in dialog.text
    opened.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()
    assert opened.switch_to.active_element == button


def test_a_number_that_has_the_focus_tells_its_interval(opened):
    right = sum(helpers.ANSWERS[f"t3d-seed{seed}", "b8s4"].count("1") for seed in (0, 1))
    low, high = wilson(right / 2, 8)
    opened.execute_script("document.querySelector('[data-cells=\"t3d/gsm/b8s4\"]').focus()")
    assert one(opened, "#tip").text.startswith(f"95 % interval {100 * low:.1f} to {100 * high:.1f}, 8 questions")
    opened.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not one(opened, "#tip").is_displayed()


def test_the_viewer_opens_at_the_first_step_where_the_student_alone_is_right(opened):
    assert one(opened, "#step").text.startswith("step 1 of ")
    assert one(opened, "#left .verdict").text.startswith("✗ Wrong")
    assert one(opened, "#right .verdict").text.startswith("✓ Right")
    budgets = [Select(one(opened, f"#{side} .budget")).first_selected_option.text for side in ("left", "right")]
    assert budgets[0] == budgets[1]
    # On paper whole answers say more.
    opened.execute_script("dispatchEvent(new Event('beforeprint'))")
    scrub = one(opened, "#scrub")
    assert scrub.get_property("value") == scrub.get_property("max")


def test_intervals_are_shown_and_digits_stand_below_each_other(opened):
    intervals = opened.find_elements(By.CSS_SELECTOR, "#accuracy .interval")
    assert intervals
    assert all(interval.is_displayed() for interval in intervals)
    script = """return [...document.querySelectorAll('#accuracy tbody tr')].map((row) =>
        row.querySelectorAll('td')[arguments[0]].querySelector('.value')?.getBoundingClientRect().right)"""
    for column in range(2):
        ends = {round(end, 1) for end in opened.execute_script(script, column) if end is not None}
        assert len(ends) == 1
    gap = """return document.querySelector(arguments[0]).nextElementSibling.getBoundingClientRect().left
        - document.querySelector(arguments[0]).getBoundingClientRect().right"""
    assert opened.execute_script(gap, "#accuracy .dagger") > 3
    one(opened, "#intervals").click()
    assert not any(interval.is_displayed() for interval in intervals)
    assert opened.find_elements(By.CSS_SELECTOR, "#accuracy .dagger")


@pytest.mark.parametrize("width", WIDTHS)
def test_what_is_wider_than_the_page_says_that_it_scrolls(opened, width):
    size(opened, WIDTHS[width])
    boxes = opened.find_elements(By.CSS_SELECTOR, ".scroll")
    wide = "return arguments[0].scrollWidth > arguments[0].clientWidth"
    hinted = "return !arguments[0].nextElementSibling.hidden"
    WebDriverWait(opened, 60).until(
        lambda _: all(opened.execute_script(wide, box) == opened.execute_script(hinted, box) for box in boxes)
    )
    if width != "tablet":
        assert any(opened.execute_script(wide, box) for box in boxes) == (width == "phone")


def test_a_figure_has_a_dark_version(opened):
    shown = "return getComputedStyle(document.querySelector('figure img')).filter"
    assert opened.execute_script(shown) == "none"
    size(opened, WIDTHS["desktop"], "dark")
    assert "invert" in opened.execute_script(shown)


def test_the_viewer_steps_forward_and_back_through_the_right_tokens(opened):
    Select(one(opened, "#question")).select_by_value("gsm/2")
    for side, model, budget in (("left", "Original", "b8s4"), ("right", pages.LABEL, "b4s2")):
        Select(one(opened, f"#{side} .model")).select_by_visible_text(model)
        Select(one(opened, f"#{side} .budget")).select_by_visible_text(budget)
    assert pages.QUESTION in one(opened, "#asked").text
    left, right = pages.answer("teacher", "b8s4", 2), pages.answer("t3d-seed0", "b4s2", 2)
    one(opened, "#first").click()
    for frame, button in enumerate(["", "forward", "forward", "forward", "forward", "forward"]):
        if button:
            one(opened, f"#{button}").click()
        assert visible_tokens(opened, "left") == drawn(left.visible(frame)), frame
        assert visible_tokens(opened, "right") == drawn(right.visible(frame)), frame
    one(opened, "#back").click()
    assert visible_tokens(opened, "left") == drawn(left.visible(4))
    one(opened, "#scrub").send_keys(Keys.ARROW_RIGHT)
    assert visible_tokens(opened, "left") == drawn(left.visible(5))
    one(opened, "#last").click()
    assert visible_tokens(opened, "left") == drawn(left.texts)
    assert visible_tokens(opened, "right") == drawn(right.texts)


def test_the_viewer_marks_right_and_wrong_and_colours_by_confidence(opened):
    Select(one(opened, "#question")).select_by_value("gsm/7")
    assert one(opened, "#left .verdict").text.startswith("✗ Wrong")
    assert "wrong" in one(opened, "#left").get_attribute("class")
    Select(one(opened, "#right .budget")).select_by_visible_text("b8s4")
    Select(one(opened, "#question")).select_by_value("gsm/0")
    assert one(opened, "#right .verdict").text.startswith("✓ Right")
    one(opened, "#last").click()
    token = one(opened, "#right .token")
    assert "by-step" in token.get_attribute("class")
    one(opened, 'input[name="colour"][value="confidence"]').click()
    token = one(opened, "#right .token")
    step = pages.answer("t3d-seed0", "b8s4", 0).steps[0]
    assert "by-confidence" in token.get_attribute("class")
    assert token.get_attribute("title") == f"block 1, step {step}, confidence {0.5 + step / 100:.2f}"


def test_an_answer_whose_score_is_not_here_is_neither_right_nor_wrong(browser, report, tmp_path, monkeypatch):
    """It was scored where it was made: nobody may take it for an answer that was not."""
    shutil.copytree(report.parents[1], tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    pages.remove("scores")
    cut = pages.answer("t3d-seed0", "b8s4", 0)
    row = {"id": "gsm-0", "response_ids": cut.ids, "step_map": cut.steps, "finish_reason": "length"}
    row |= {"confidence": [0.5] * len(cut.ids), "response_tokens": len(cut.ids)}
    helpers.write_answers(pages.experiment(), Path("data", "tiny"), "t3d-seed0", "gsm", "b8s4", [row])
    page.write(pages.experiment(), Path("results", "report.html"))
    load(browser, tmp_path / "results" / "report.html")
    for side, model in (("left", "Original"), ("right", pages.LABEL)):
        Select(one(browser, f"#{side} .model")).select_by_visible_text(model)
        Select(one(browser, f"#{side} .budget")).select_by_visible_text("b8s4")
    Select(one(browser, "#question")).select_by_value("gsm/0")
    whole = pages.answer("teacher", "b8s4", 0)
    steps = [len({(place // 8, step) for place, step in enumerate(answer.steps)}) for answer in (whole, cut)]
    assert [one(browser, f"#{side} .verdict").text for side in ("left", "right")] == [
        f"Verdict not here. {whole.ids.index(pages.END) + 1} tokens in {steps[0]} steps.",
        f"Verdict not here. {len(cut.ids)} tokens in {steps[1]} steps, cut off.",
    ]
    Select(one(browser, "#question")).select_by_value("gsm/1")
    assert one(browser, "#right .verdict").text == "This answer is not in the report."
    for side in ("left", "right"):
        box = one(browser, f"#{side}")
        colours = {name: box.value_of_css_property(f"border-{name}-color") for name in ("left", "top")}
        assert colours["left"] == colours["top"]
        verdict, where = (
            one(browser, f"#{side} .{name}").value_of_css_property("color") for name in ("verdict", "where")
        )
        assert verdict == where


def test_play_runs_to_the_end_and_stops(opened):
    one(opened, "#first").click()
    play = one(opened, "#play")
    play.click()
    assert play.text == "Pause"
    WebDriverWait(opened, 60).until(lambda _: play.text == "Play")
    scrub = one(opened, "#scrub")
    assert scrub.get_property("value") == scrub.get_property("max")


def test_a_table_is_downloaded(opened, report):
    one(opened, '#accuracy a[download="tiny-accuracy.csv"]').click()
    target = opened.downloads / "tiny-accuracy.csv"
    WebDriverWait(opened, 60).until(lambda _: target.is_file() and target.stat().st_size)
    assert target.read_bytes() == (report.parent / "tiny" / "accuracy.csv").read_bytes()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_the_width_and_has_contrast(opened, report, width, scheme):
    shown = Path(os.environ.get("T3D_REPORT", report)).resolve()
    size(opened, WIDTHS[width], scheme)
    opened.get(shown.as_uri())
    assert opened.execute_script("return document.documentElement.scrollWidth") <= WIDTHS[width]
    colours = opened.execute_script("const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]")
    ink, paper = (sum(int(part) for part in colour[4:-1].split(",")) / 3 for colour in colours)
    assert (ink < 60 and paper > 240) if scheme == "light" else (ink > 220 and paper < 40)
    if "T3D_SCREENSHOTS" in os.environ:
        names = ["page", *(["viewer"] if opened.find_elements(By.ID, "viewer") else []), "provenance"]
        for name in names:
            photograph(opened, Path(os.environ["T3D_SCREENSHOTS"], f"{width}-{scheme}-{name}.png"), name)


def photograph(browser, path, name):
    clip = {}
    if name == "page":
        sides = browser.execute_script("const e = document.documentElement; return [e.scrollWidth, e.scrollHeight]")
        box = {"x": 0, "y": 0, "width": sides[0], "height": sides[1], "scale": 1}
        clip = {"captureBeyondViewport": True, "clip": box}
    elif name == "viewer":
        one(browser, "#first").click()
        for _ in range(5):
            one(browser, "#forward").click()
    else:
        browser.execute_script("document.querySelector('button.cell').click()")
    content = browser.execute_cdp_cmd("Page.captureScreenshot", clip)["data"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(base64.b64decode(content))
