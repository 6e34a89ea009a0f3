"""The pages of the guide: every rule once, and no link that leads nowhere."""

from __future__ import annotations

import re

from advisor.guide.load import load_pack
from advisor.guide.pages import pages
from advisor.guide.texts import CHECKS

RULES = load_pack().rules
PAGES = pages(RULES)


def test_every_rule_stands_on_one_page() -> None:
    headings = [m for text in PAGES.values() for m in re.findall(r"^## ([A-Z]+-\d{3})$", text, re.MULTILINE)]
    assert sorted(headings) == [r.id for r in RULES]
    for rule in RULES:
        page = PAGES[f"{rule.family}.md"]
        assert rule.because in page
        assert rule.name in page


def test_links_lead_to_rules() -> None:
    links = re.findall(r"\]\(([a-z-]+\.md)#([a-z]+-\d{3})\)", PAGES["README.md"])
    assert {anchor.upper() for _, anchor in links} == {r.id for r in RULES}
    for file, anchor in links:
        assert f"\n## {anchor.upper()}\n" in PAGES[file]


def test_every_cited_section_and_every_check_is_in_the_table() -> None:
    rows = {tuple(m) for m in re.findall(r"^\| (00\d) \| ([^|]+) \|", PAGES["README.md"], re.MULTILINE)}
    cited = {(s.doc, s.section) for r in RULES for s in r.sources if s.doc is not None}
    assert rows == cited | set(CHECKS)


def test_pages_do_not_depend_on_the_order_of_rules() -> None:
    assert pages(tuple(reversed(RULES))) == PAGES


def test_disagreements_are_told() -> None:
    told = PAGES["README.md"].split("## Where texts disagree")[1].split("\n## ")[0]
    for rule_id in ("GUIDE-004", "GUIDE-007", "GUIDE-030", "GUIDE-080", "GUIDE-102", "GUIDE-107", "RT-034"):
        assert f"[{rule_id}]" in told
