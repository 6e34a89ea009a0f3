"""``advisor cache``: what the cache holds."""

from __future__ import annotations

from ..command import LazyGroup, command
from ..options import option
from ..run import Run


@command("info")
def info(run: Run) -> None:
    """Show what the cache holds. All of it can be fetched or made again."""
    from advisor import api
    from advisor.facts.schemas import CacheData

    from ..views import cache as view

    found = api.cache_info(settings=run.settings)
    run.sink.result(
        run.command,
        CacheData(cache=found),
        human=lambda page: view.holding(page, found),
        quiet=(found.path,),
    )


@command("gc")
@option("--unused", is_flag=True, help="Remove also every model and artifact that no deployment serves.")
@option("--dry-run", is_flag=True, help="Show what would go; remove nothing.")
def gc(run: Run, unused: bool, dry_run: bool) -> None:
    """Remove what killed runs left, damaged artifacts and unfinished transfers."""
    from advisor import api
    from advisor.facts.schemas import CacheData

    from ..views import cache as view

    if unused and not dry_run:
        run.confirm("Remove every model and artifact that no deployment serves?")
    found = api.cache_gc(unused=unused, dry_run=dry_run, settings=run.settings)
    run.sink.result(
        run.command,
        CacheData(cache=found),
        human=lambda page: view.collected(page, found),
        quiet=found.removed,
    )


cache = LazyGroup(
    "cache",
    {
        "info": (__name__, "info", "Show what the cache holds."),
        "gc": (__name__, "gc", "Remove what is left over."),
    },
    "See what the cache holds, and clear it.",
)
