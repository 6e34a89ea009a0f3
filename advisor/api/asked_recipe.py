"""Whether the values of the quantizer that were asked for can be carried out for a model at all."""

from __future__ import annotations

from advisor.errors import AdvisorError
from advisor.facts.model import ModelFacts
from advisor.facts.plan import PlanRequest
from advisor.facts.recipe import RecipeOptions
from advisor.facts.text import shell_word


def check_recipe(model: ModelFacts, request: PlanRequest) -> None:
    """Refuse values of the quantizer that no machine can carry out for this model, with the nearest legal choice.

    Raises:
        AdvisorError: ``illegal-recipe``.
    """
    asked = request.recipe
    if request.method in (None, "gguf", "none") or asked == RecipeOptions():
        return
    from advisor.backends import recipes
    from advisor.model.tensors import tensors
    from advisor.planner.candidate import formats

    assert request.method is not None
    known = tensors(model)
    found = formats(request.method, model, request, known)
    legal: AdvisorError | None = None
    for fmt in found:
        try:
            recipes.recipe(request.method, fmt, request.quantizer, asked, {}, tensors=known, runtime=request.runtime)
        except AdvisorError as e:
            if e.code != "illegal-recipe":
                raise
            e.hint = e.hint.replace("MODEL", shell_word(model.ref)) if e.hint is not None else None
            legal = legal or e
        else:
            return
    if legal is not None:
        raise legal
