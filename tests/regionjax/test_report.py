"""A report of toy results: every key is there, and the page needs nothing but itself."""

import dataclasses
import html.parser
import json
import re

import pytest
import toy_benchmark as toy
import toy_questions

from regionjax import report, scoreboard
from regionjax.evaluate import ask
from regionjax.evaluators.questions import Questions
from regionjax.evaluators.settings import EvaluateConfig

PROMISED = (
    "region_caption/exact_match",
    "region_caption/cider",
    "no_region/exact_match",
    "ris/miou",
    "ris/oiou",
    "ris/chance_miou",
    "pointing/accuracy",
    "grounding/acc50",
    "image_caption/cider",
)
SETTINGS = EvaluateConfig(bootstrap_samples=50)


def answered(questions):
    results = ask(questions, toy.Oracle(wrong=0.3), SETTINGS, toy.BINS)
    results.scores.update(
        {"train/regions_per_second": 812.5, "train/steps": 100, "time/total_seconds": 75.0}
    )
    results.about.update(split="val", held_out=True, images=10)
    return results


@pytest.fixture(scope="module")
def results():
    records = [toy.record(index) for index in range(10)]
    regions = toy.described(records)
    expressions = {"refer": toy.referred(records)}
    return answered(Questions(regions, regions, toy.captions(records), expressions))


@pytest.fixture
def written(tmp_path, results):
    lines = [
        {"step": n, "loss": 1 / n, "loss/caption": None, "learning_rate": 0.1, "x": 3}
        for n in range(1, 50)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text)
    path = report.write(tmp_path, results, title="toy <run>", gallery=4, seed=0)
    return path, json.loads((tmp_path / "report.json").read_text())


def test_json_has_what_was_promised(written):
    _, numbers = written
    for key in PROMISED:
        assert numbers[f"{key}_low"] <= numbers[key] <= numbers[f"{key}_high"]
    assert (numbers["train/steps"], numbers["time/total_seconds"]) == (100, 75)
    assert numbers["train/regions_per_second"] == 812.5
    assert numbers["about"]["items"]["region_caption"] == 40


class Page(html.parser.HTMLParser):
    """Collects tags, and checks that they are closed in order."""

    VOID = {"meta", "br", "use", "rect", "path", "circle", "image", "polyline"}

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.attributes += attributes
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_stands_alone_and_is_well_formed(written):
    path, _ = written
    text = path.read_text()
    page = Page(text)
    assert not page.open
    links = [value for name, value in page.attributes if name in ("href", "src")]
    assert links and all(link.startswith(("#photo-", "data:image/")) for link in links)
    assert "<script" not in text and "url(" not in text and "@import" not in text
    ids = {value for name, value in page.attributes if name == "id"}
    assert {link[1:] for link in links if link.startswith("#")} <= ids
    assert len(text) < 2_000_000
    assert "toy &lt;run&gt;" in text


def test_page_shows_scores_baselines_answers_and_curves(written):
    path, numbers = written
    text = path.read_text()
    for row in scoreboard.HEADLINE:
        assert row.text(numbers[row.key]) in text and row.against in text
    for words in ("drawn at random", "some mistakes", "without the region", "truth: ", "IoU 1.00"):
        assert words in text
    assert text.count('<figure class="chart">') == 2  # loss and learning rate; no loss/caption
    assert re.search(r"1 min 15 s", text)


def test_the_same_results_give_the_same_page(written, results, tmp_path):
    path, _ = written
    other = tmp_path / "again"
    other.mkdir()
    (other / "metrics.jsonl").write_text((tmp_path / "metrics.jsonl").read_text())
    again = report.write(other, results, title="toy <run>", gallery=4, seed=0)
    assert again.read_text() == path.read_text()


def test_missing_items_are_null_and_said(tmp_path):
    records = [toy.record(index) for index in range(3)]
    results = answered(Questions(toy.described(records), [], [], {}))
    path = report.write(tmp_path, results, title="toy", gallery=4, seed=0)
    numbers = json.loads((tmp_path / "report.json").read_text())
    assert numbers["ris/miou"] is None and numbers["image_caption/cider_low"] is None
    assert numbers["region_caption/exact_match"] > 0
    assert "no such items" in path.read_text()
    assert "(no such items)" in scoreboard.summary(results.scores)


def test_sets_of_expressions_are_scored_apart(tmp_path):
    records = [toy.record(index) for index in range(5)]
    sets = {"testA": toy.referred(records[:2]), "testB": toy.referred(records[2:])}
    results = answered(Questions([], [], [], sets))
    page = report.write(tmp_path, results, title="toy", gallery=4, seed=0).read_text()
    alone = answered(Questions([], [], [], {"testA": sets["testA"]})).scores
    for key in ("ris/miou", "rec/acc50", "grounding/acc50", "pointing/accuracy"):
        family, name = key.split("/")
        assert results.scores[f"{family}_testA/{name}"] == alone[key] > 0
        assert results.scores[key] is None
        assert f"{family}_testB/{name} " in scoreboard.summary(results.scores)
        assert f"{key} " not in scoreboard.summary(results.scores)
    assert results.about["items"] == {"expressions_testA": 8, "expressions_testB": 12}
    assert "testA: mean IoU" in page and "testB: mean IoU" in page


def test_reports_of_other_splits_are_kept(tmp_path):
    results = answered(Questions(toy.described([toy.record(0)]), [], [], {}))

    def written(split):
        results.about["split"] = split
        report.write(tmp_path, results, title=split, gallery=1, seed=0)
        (tmp_path / "predictions").mkdir(exist_ok=True)
        (tmp_path / "predictions/said.json").write_text(split)
        return {
            file.name: json.loads(file.read_text())["about"]["split"]
            for file in tmp_path.glob("report*.json")
        }

    assert written("val") == written("val") == {"report.json": "val"}
    assert written("testA") == {"report.json": "testA", "report-val.json": "val"}
    assert written("val") == {"report.json": "val", "report-testA.json": "testA"}
    assert (tmp_path / "predictions-testA/said.json").read_text() == "testA"
    assert "<title>testA" in (tmp_path / "report-testA.html").read_text()


def test_questions_and_choices_are_reported(tmp_path):
    records = [toy.record(index) for index in range(6)]
    asked = {
        "vqav2": toy_questions.asked(records, ("yes/no", "number", "other")),
        "gqa": toy_questions.about_all(records),
    }
    questions = Questions([], [], [], {}, asked, {"vcr": toy_questions.chosen(records)})
    settings = dataclasses.replace(SETTINGS, choices_by=("likelihood", "digit"))
    results = ask(questions, toy_questions.Looking(), settings, toy.BINS)
    assert results.about["items"] == {"vqav2": 24, "gqa": 6, "vcr": 24}
    path = report.write(tmp_path, results, title="toy", gallery=4, seed=0)
    numbers = json.loads((tmp_path / "report.json").read_text())
    for key in ("vqav2/accuracy", "vqav2/yes_no", "gqa/accuracy", "vcr/q_ar", "vcr_digit/qa_r"):
        assert numbers[f"{key}_low"] == numbers[key] == 1
    assert 0 < numbers["vqav2_no_region/accuracy"] < 1
    assert numbers["vcr_no_image/q_a"] == 1 / 4
    assert "gqa_no_region/accuracy" not in numbers and "gqa_no_image/accuracy" in numbers
    page = path.read_text()
    assert not Page(page).open
    for words in ("Answering questions: VQAv2", "Choosing answers and reasons: VCR", "GQA",
                  "without the image: red", "VCR Q→AR", "OK-VQA"):  # fmt: skip
        assert (words in page) == (words != "OK-VQA")
    assert "vcr/q_a " in scoreboard.summary(results.scores)
    written = json.loads((tmp_path / "predictions/vqav2.json").read_text())
    assert written[0].keys() == {"question_id", "answer"} and len(written) == 24
    written = json.loads((tmp_path / "predictions/gqa.json").read_text())
    assert written[0] == {"questionId": "000000000000", "prediction": "4."}


def test_ngram_scores_are_in_a_table(written):
    path, numbers = written
    assert f"{numbers['region_caption/bleu_1']:.3f}</td>" in path.read_text()
    assert "Texts by their words" in path.read_text()
    for key in ("region_caption", "narration", "image_caption"):
        for score in ("bleu_1", "bleu_4", "rouge_l"):
            assert 0 <= numbers[f"{key}/{score}"] <= 1


def test_summary_has_a_line_a_score(results):
    lines = scoreboard.summary(results.scores).splitlines()
    assert len(lines) == len(scoreboard.rows_of(results.scores)) >= len(scoreboard.HEADLINE)
    pointing = next(line for line in lines if line.startswith("pointing/accuracy"))
    assert re.search(r"\d\d\.\d% \[\d+\.\d%, \d+\.\d%\] +a random pixel: \d+\.\d%", pointing)


def test_series_leave_out_what_is_null():
    entries = [{"step": 1, "loss": 2.0}, {"step": 5, "loss": None}, {"step": 9, "loss": 1.0}]
    assert report.series(entries) == {"loss": ([1, 9], [2.0, 1.0])}
