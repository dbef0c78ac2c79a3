"""The report shows what the run did, in one file that a browser opens without a complaint."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline import report
from pipeline.artifacts import (
    FILTER_FIGURES,
    GENERATOR_CURVES,
    IDENTITY,
    REID_RESULTS,
    SYNTHETIC,
    TABLE4_SUMMARY,
    read_index,
    read_pose_table,
)
from pipeline.params import ArmSettings, FilterSettings, Params, load_params
from pipeline.runtime.outputs import write_csv, write_json
from pipeline.shared.statistics import summarise
from tests.pipeline.test_table4 import models

ROWS = pd.concat(
    [
        models("standard", "none", 50, [50.0, 52.0, 54.0]),
        models("imagpose", "all", 50, [60.0, 61.0, 67.0]),
        models("standard", "none", 100, [70.0, 72.0, 74.0]),
    ]
)


@pytest.fixture
def run(workspace: Params) -> Params:
    """A finished run in the present folder: what the stages before the report wrote."""
    write_json(summarise(ROWS), TABLE4_SUMMARY)
    index = pd.read_csv("data/index.csv")
    queries, gallery = (index[index.split == split] for split in ("query", "gallery"))
    for arm in ("standard", "imagpose"):
        order = np.random.default_rng(len(arm))
        rows = [
            {
                "percent": 50,
                "seed": seed,
                "query": query,
                "ap": order.uniform(0, 100) if row else None,  # the first has no right image in the gallery
                "first_match": 1 if row else None,
                "top": " ".join(order.permutation(gallery.image[gallery.pid >= 0])[:10]),
            }
            for row, query in enumerate(queries.image)
            for seed in (0, 1)
        ]
        write_csv(pd.DataFrame(rows), REID_RESULTS / f"{arm}.queries.csv")
        curves = [
            {"percent": 50, "seed": seed, "step": step, "loss": 4 / step + seed, "accuracy": 0.5}
            for seed in (0, 1)
            for step in (20, 40, 60)
        ]
        write_csv(pd.DataFrame(curves), REID_RESULTS / f"{arm}.curves.csv")
    curve = pd.DataFrame({"step": range(1, 41), "loss": np.linspace(1, 0.3, 40), "percent": 100})
    write_csv(curve, GENERATOR_CURVES / "all.csv")
    manifest = pd.read_csv("data/synthetic/all/50/manifest.csv")
    scores = manifest[["name"]].assign(percent=50, agreement=np.linspace(0.1, 0.9, len(manifest)))
    write_csv(scores, IDENTITY / "imagpose.csv")
    Path("dvc.lock").write_text(
        "schema: '2.0'\nstages:\n  plan:\n    cmd: python -m pipeline.plan\n"
        "    outs:\n    - path: data/plans\n      md5: 0123456789abcdef.dir\n"
        "  generate@all-50:\n    cmd: python -m pipeline.runtime.launch pipeline.generate all 50\n"
    )
    Path(".scratch").mkdir()
    Path(".scratch/times.jsonl").write_text(
        '{"command": "pipeline.generate all 50", "started": "2030-01-01T00:00:00+0000", '
        '"seconds": 12.34, "peak_mib": 567}\n'
    )
    return workspace


class Tags(HTMLParser):
    """Collects the tags of a page with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def of(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag in names]


def text_of(page: str) -> str:
    page = re.sub(r"<style.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


@pytest.mark.slow
def test_a_browser_opens_the_page_offline_without_a_complaint(run: Params, browser: Any) -> None:
    report.main()
    page = browser.new_page(offline=True, color_scheme="dark")
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on(
        "request", lambda request: messages.append(request.url) if "file:" not in request.url[:5] else None
    )
    page.goto(report.REPORT.resolve().as_uri())
    pictures = page.evaluate("[...document.images].map((image) => image.naturalWidth)")
    assert len(pictures) > 50 and min(pictures) > 0
    assert page.evaluate("[...document.querySelectorAll('svg')].every((svg) => svg.clientHeight > 100)")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to Table 4"
    for width in (1440, 390):  # a laptop and a telephone: no scrolling to the side
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") == width
    paper = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(paper) == "rgb(20, 23, 27)"
    page.emulate_media(color_scheme="light")
    assert page.evaluate(paper) == "rgb(255, 255, 255)"
    page.emulate_media(media="print")
    assert not page.get_by_role("navigation").is_visible()
    page.close()
    assert [message for message in messages if not message.startswith("data:")] == []


@pytest.mark.slow
def test_a_screen_reader_finds_its_way(run: Params) -> None:
    tags = Tags(report.make_report(run))
    assert all(image["alt"] for image in tags.of("img"))
    assert all(image["aria-label"] for image in tags.of("svg"))
    assert len(tags.of("caption")) == len(tags.of("table")) >= 5
    assert all(cell.get("scope") for cell in tags.of("th"))
    levels = [int(tag[1]) for tag, _ in tags.found if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(below <= above + 1 for above, below in pairwise(levels))
    assert {"main", "nav", "header", "footer"} <= {tag for tag, _ in tags.found}
    ids = [attributes["id"] for _, attributes in tags.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [str(link["href"]).removeprefix("#") for link in tags.of("a")]
    labels = [
        attributes["aria-labelledby"] for _, attributes in tags.found if "aria-labelledby" in attributes
    ]
    assert set(links) | set(labels) <= set(ids)


@pytest.mark.slow
def test_the_file_holds_everything_that_it_shows(run: Params) -> None:
    tags = Tags(report.make_report(run))
    sources = [str(attributes["src"]) for _, attributes in tags.found if "src" in attributes]
    assert sources and all(source.startswith("data:image/") for source in sources)
    assert not tags.of("script", "iframe", "object")
    assert [link["href"] for link in tags.of("link")] == ["data:,"]


@pytest.mark.slow
def test_the_page_says_what_the_run_did(run: Params) -> None:
    page = report.make_report(run)
    text = text_of(page)
    assert "imagpose (generator saw: all) rank-1 +10.7 +5.5 to +15.8 gain recovers 53 %" in text
    assert "standard rank-1 52.0 ± 5.0 72.0 ± 5.0" in text
    assert (
        "shipped defaults in profiles/embedded.yaml" in text
        and "subset.percents [50] [20, 40, 60, 80]" in text
    )
    assert "No file was rejected." in text and "No training image stands in the test set." in text
    assert "generate@all-50 12.3 567" in text and "data/plans 0123456789abcdef.dir" in text
    assert "mean identity score 0." in text and "Queries that imagpose won" in text
    assert "its numbers say nothing of Market-1501" not in text  # the data set is not the rendered one
    assert re.search(r"torch \d+\.\d+", text)


def test_learning_curves_are_those_of_the_generator_and_of_every_arm(run: Params) -> None:
    curves = dict(report.curves_section(run))
    assert list(curves) == [
        "Generator trained on: all",
        "Re-ID models of the arm standard, mean over seeds",
        "Re-ID models of the arm imagpose, mean over seeds",
    ]
    # Means over the seeds: 4 / 20 + 0.5 and 4 / 60 + 0.5.
    said = "mean over seeds: loss over the steps; at 50 % from 0.700 to 0.567"
    assert all(said in curve for title, curve in curves.items() if "Re-ID" in title)


@pytest.mark.slow
def test_every_generated_image_has_its_identity_score(run: Params) -> None:
    page = report.make_report(run)
    shown = re.findall(r"<figcaption>identity \d+, score (\d\.\d\d)</figcaption>", page)
    assert len(shown) == page.count('<figure class="made">') > 10
    worst = page.split("Generated images least like their person")[1]
    scores = pd.read_csv(IDENTITY / "imagpose.csv")
    lowest = [f"{score:.2f}" for score in sorted(scores.agreement)[: 2 * run.report.queries]]
    assert re.findall(r"score (\d\.\d\d)</figcaption>", worst) == lowest
    write_csv(scores.iloc[1:], IDENTITY / "imagpose.csv")
    with pytest.raises(ValueError, match=r"imagpose.csv: images of .*/50 are missing; run the stage 'iden"):
        report.make_report(run)


def test_the_worst_images_may_be_those_of_another_generator(run: Params) -> None:
    """Their manifest does not say sources and pose."""
    folder = SYNTHETIC / "pidm" / "50"
    folder.mkdir(parents=True)
    files = sorted((SYNTHETIC / "all" / "50").glob("*.jpg"))[:2]
    for file in files:
        (folder / file.name).write_bytes(file.read_bytes())
    names = [file.name for file in files]
    pids = [int(name[:4]) for name in names]
    write_csv(
        pd.DataFrame({"name": names, "pid": pids, "order": [0, 1], "md5": "-"}), folder / "manifest.csv"
    )
    write_csv(pd.DataFrame({"percent": 50, "name": names, "agreement": [0.0, 0.25]}), IDENTITY / "pidm.csv")
    arms = run.arms | {"pidm": ArmSettings(generator="pidm")}
    worst = report.worst_generated(read_index(), read_pose_table(), run.model_copy(update={"arms": arms}))
    assert worst[0]["score"] == 0 and worst[0]["pose"] is None and worst[0]["sources"] == []
    assert sum(image["pose"] is not None for image in worst) == len(worst) - 2 > 0


@pytest.mark.slow
def test_filters_show_their_pictures(run: Params) -> None:
    assert report.filters_section(run) == []
    recipe = FilterSettings(generator="all", min_agreement=0.9)
    filtered = run.model_copy(update={"filters": {"sure": recipe}})
    with pytest.raises(FileNotFoundError, match=r"filters/sure.png is missing; run the stage 'filter'"):
        report.make_report(filtered)
    FILTER_FIGURES.mkdir()
    Image.new("RGB", (1210, 605), "orange").save(FILTER_FIGURES / "sure.png")
    page = report.make_report(filtered)
    assert "Filter <code>sure</code>" in page
    (picture,) = [image for image in Tags(page).of("img") if "filter sure" in str(image["alt"])]
    assert (picture["width"], picture["height"]) == ("1210", "605"), "as large as it was drawn"
    assert "which trains on what it kept" not in page

    arms = {
        name: run.arms["imagpose"].model_copy(update=changes)
        for name, changes in {
            "imagpose": {},
            "sure": {"generator": "sure"},
            "surer": {"generator": "sure", "rate": 1.0},
        }.items()
    }
    ranks = {"imagpose": [50.0, 52.0], "sure": [51.0, 55.0], "surer": [0.0, 0.0]}
    for name, rank1 in ranks.items():
        write_csv(models(name, "all", 50, rank1), REID_RESULTS / f"{name}.csv")
    (section,) = report.filters_section(filtered.model_copy(update={"arms": arms}))
    # Differences 1 and 3: mean 2, sd sqrt(2), t(0.975, 1) = 12.706; surer differs in its rate, too.
    assert section["changes"] == [("sure", "imagpose", {50: "+2.0 ± 12.7"})]


def test_another_scale_is_compared_with_its_own_defaults(run: Params) -> None:
    """A run with the paper's parameters differs from the paper's defaults in what the user changed."""
    for name, steps in (("harder", 6), ("market1501", 20), ("market1501_authors", 30), ("photographs", 6)):
        profile = f"profiles/{name}.yaml"
        text = Path(profile).read_text()
        assert f"    steps: {steps} " in text
        Path("params.yaml").write_text(text.replace(f"    steps: {steps} ", "    steps: 33 "))
        found = report.parameters_section(load_params())
        assert found["defaults"] == profile
        assert [key for key, _, _ in found["changed"]] == ["generate.sample.steps"]


def queries(ap: dict[tuple[str, int], float]) -> pd.DataFrame:
    rows = [
        {"percent": 20, "seed": seed, "query": query, "ap": x, "top": ""} for (query, seed), x in ap.items()
    ]
    return pd.DataFrame(rows)


def test_queries_are_won_and_lost_in_the_mean_over_seeds() -> None:
    standard = queries({("a", 0): 10, ("a", 1): 10, ("b", 0): 50, ("b", 1): 50, ("c", 0): 5, ("c", 1): 5})
    arm = queries({("a", 0): 90, ("a", 1): 20, ("b", 0): 95, ("b", 1): 0, ("c", 0): 5, ("c", 1): 5})
    both = report.compare_queries(standard, arm)
    assert both.set_index(["query", "seed"]).mean_change.to_dict() == {
        ("a", 0): 45,
        ("a", 1): 45,
        ("b", 0): -2.5,
        ("b", 1): -2.5,
        ("c", 0): 0,
        ("c", 1): 0,
    }
    picked = report.pick_queries(both, 2)
    assert picked["won"][["query", "seed"]].values.tolist() == [["a", 0]]
    assert picked["lost"][["query", "seed"]].values.tolist() == [["b", 1]]
    assert picked["failed"]["query"].tolist()[0] == "c" and len(picked["failed"]) == 2


def test_frames_tell_right_from_wrong_people(run: Params) -> None:
    index = pd.read_csv("data/index.csv")
    (arm,) = report.rankings_section(index, run)
    shown = [found for name in ("won", "lost", "failed") for found in arm["lists"][name]]
    assert shown
    tops = pd.read_csv(REID_RESULTS / "standard.queries.csv").set_index(["seed", "query"]).top
    for found in shown:
        assert [len(hits) for _, _, hits in found["rows"]] == [10, 10]
        _, _, hits = found["rows"][0]
        fitting = [
            [f"/{found['pid']:04d}_" in image for image in top.split()]
            for (seed, query), top in tops.items()
            if seed == found["seed"]
            and f"{found['pid']:04d}_{found['camera'].replace('camera ', 'c')}s" in query
        ]
        assert [right for right, _ in hits] in fitting
        assert all(("right" in image.alt) == right for right, image in hits)


@pytest.mark.slow
def test_what_is_missing_is_named(run: Params) -> None:
    (REID_RESULTS / "imagpose.queries.csv").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"imagpose.queries.csv is missing; run the stage 'augmented@imagpose'"
    ):
        report.make_report(run)


@pytest.mark.slow
def test_rejected_files_stand_by_reason(run: Params) -> None:
    rejected = pd.DataFrame(
        {"image": ["query/a.png", "query/b.png", "x<y.jpg"], "reason": ["p", "p", "q & r"]}
    )
    write_csv(rejected, "data/rejected.csv")
    page = report.make_report(run)
    assert "Rejected files: 3" in page and "q &amp; r" in page and "x&lt;y.jpg" in page
    assert json.loads(json.dumps(report.data_section(pd.read_csv("data/index.csv"), run)["rejected"])) == [
        ["p", 2, "query/a.png"],
        ["q & r", 1, "x<y.jpg"],
    ]
