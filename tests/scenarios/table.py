"""Prints the table of scenarios as Markdown: scenario, expected, got, rule.

    python -m tests.scenarios.table [--only TEXT] [--differences] [--costs]

``--only``: scenarios whose id or model contains TEXT. ``--differences``: what does not come out as it should, in full.
``--costs``: the CPU time of each scenario.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from advisor.facts.plan import SourceRef
from tests.scenarios.judging import differences, got, pattern_words
from tests.scenarios.planning import Answer, Planned, loaded
from tests.scenarios.reading import load
from tests.scenarios.shapes import MachineSpec, Scenario


def machine_words(m: MachineSpec) -> str:
    """``rtx-4090, 64GB``."""
    if m.recorded is not None:
        return f"recorded {m.recorded}"
    parts = [" + ".join(m.hardware), m.memory or ""]
    if m.limit is not None:
        parts.append(f"limit {m.limit}")
    if m.host != "desktop":
        parts.append(m.host)
    return ", ".join(p for p in parts if p)


def flag_words(s: Scenario) -> str:
    """The flags as on the command line."""
    given = [(name, value) for name, value in s.flags.to_json().items() if value not in (None, False)]
    return " ".join(f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}") for name, value in given)


def expected_words(s: Scenario) -> str:
    """What the scenario demands, in a few words."""
    parts = []
    if s.must.refused is not None:
        parts.append(f"refused: {s.must.refused}")
    if s.must.nothing:
        parts.append("nothing fits")
    if s.must.first is not None:
        parts.append(pattern_words(s.must.first))
    parts += [f"also {pattern_words(p)}" for p in s.must.some]
    if s.must.before:
        parts.append(" before ".join(pattern_words(p) for p in s.must.before))
    parts += [f"{'not first' if n.first else 'not'} {pattern_words(n.plan)}" for n in s.must_not]
    parts += [f'says "{text}"' for text in (*s.must_say.text, *s.must_say.relaxations)]
    return "; ".join(parts) or "cites its rules"


def because_words(refs: Sequence[SourceRef]) -> str:
    """``000 §7; vLLM documentation``."""
    return "; ".join(f"{r.doc} §{r.section}" if r.doc else str(r.title) for r in refs)


def rules_of(s: Scenario, answer: Answer) -> str:
    """The rules that the scenario names, else those that spoke for the first plan."""
    named = [*s.must_say.rules, *(n.rule for n in s.must_not if n.rule)]
    if s.must.first is not None:
        named += s.must.first.rules
    if not named and answer.first is not None:
        named = [d.rule for d in answer.first.decisions if d.effect == "prefer" and (d.weight or 0) > 0]
    return ", ".join(dict.fromkeys(named))


def row(s: Scenario, answer: Answer) -> str:
    """One line of the table."""
    mark = "" if not differences(s, answer) else "**differs** "
    if s.disputed is not None:
        mark = f"*disputed, believe {s.disputed.believe}* "
    model = s.model if isinstance(s.model, str) else f"{s.model.name} stored as {s.model.stored}"
    asked = " ".join(p for p in (s.goal, flag_words(s)) if p)
    cells = (
        s.id,
        f"{machine_words(s.machine)}; {model}; {asked}",
        expected_words(s),
        mark + got(answer),
        rules_of(s, answer),
        because_words(s.because),
    )
    return "| " + " | ".join(c.replace("|", "/") for c in cells) + " |"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 where a scenario that is not disputed differs, or a disputed one does not."""
    options = argparse.ArgumentParser(prog="python -m tests.scenarios.table", description=__doc__)
    options.add_argument("--only", default="")
    options.add_argument("--differences", action="store_true")
    options.add_argument("--costs", action="store_true")
    asked = options.parse_args(argv)
    whole = load()
    chosen = [s for s in whole if asked.only in s.id or asked.only in str(s.model)]
    planned, wrong, costs = Planned(), 0, []
    if not asked.differences:
        print("| scenario | asked | expected | got | rules | because |\n|---|---|---|---|---|---|")
    for s in chosen:
        started = time.process_time()
        answer = planned.of(s)
        costs.append((time.process_time() - started, s.id))
        found = differences(s, answer)
        wrong += bool(found) == (s.disputed is None)
        if asked.differences:
            if found:
                mark = f" (disputed, believe {s.disputed.believe}: {s.disputed.why})" if s.disputed is not None else ""
                print(f"{s.id}{mark}\n" + "".join(f"    {text}\n" for text in found), end="")
            elif s.disputed is not None:
                print(f"{s.id}: is disputed, but nothing differs any more")
        else:
            print(row(s, answer))
    disputed = sum(s.disputed is not None for s in chosen)
    print(f"\n{len(chosen)} scenarios, {disputed} disputed, {wrong} differ unexpectedly.")
    if len(chosen) == len(whole):
        silent = sorted(planned.silent((r.id for r in loaded().pack.rules), chosen))
        print(f"Rules that speak in none of them: {', '.join(silent) or 'none'}.")
    if asked.costs:
        print(f"{sum(t for t, _ in costs):.1f} CPU seconds, at most:")
        print("".join(f"  {t:.2f} {name}\n" for t, name in sorted(costs, reverse=True)[:10]), end="")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
