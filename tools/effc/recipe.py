"""Everything a compile was asked to do, as plain data: the recipe."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from effc.ir.errors import UsageError

DEFAULT_PASSES = "quantize"
WIDEST, LEAST_BITS = 8, 2
PLACES = ("model", "calib", "eval", "tokenizer")


class Recipe(BaseModel):
    """The resolved configuration of a compile; enough to repeat it.

    Attributes:
        model: What was compiled, as the user named it; a path is absolute.
        target: What for, in text form.
        passes: The pipeline that follows the clean passes.
        inputs: Descriptions of the model's inputs, where it does not carry them.
        calib: Calibration data.
        tokenizer: Folder of the tokenizer for text data.
        eval: Evaluation data.
        metric: Task quality.
        max_drop: Largest loss of quality: `1%` of the baseline's, or `0.5pt` (hundredths).
        max_size: Largest size: `3MB`, or `25%` of the baseline's.
        max_latency: Longest run: `5ms`, or `60%` of the baseline's.
        elastic: Widths the weights are loaded in; the first is stored, the others derived from it.
        depths: Numbers of first residual blocks that are loaded, too, from the same weights.
        exclude: Patterns of layers compression leaves alone.
        set: Options per layer: pattern, colon, `key=value` pairs.
        sizes: Values of symbolic dimensions to measure at.
        threads: Threads to build and measure for; 0 for all.
        search: How many recipes of 8-bit quantization are tried; 0 to take `passes`.
        tune: How many candidate schedules of kernels are measured; 0 for none.
        seed: Seed of all randomness.
        keep_going: Whether a result slower or worse than the budgets is accepted.
        resume: Whether statistics of earlier runs are reused.
        trust_pickle: Whether a pickled module may be loaded.
        objects: Settings that were handed over as Python objects, which a file cannot hold.
    """

    model_config = ConfigDict(extra="forbid")

    model: str = ""
    target: str = "native"
    passes: str = DEFAULT_PASSES
    inputs: list[str] = Field(default_factory=list)
    calib: str | None = None
    tokenizer: str | None = None
    eval: str | None = None
    metric: str | None = None
    max_drop: str | None = None
    max_size: str | None = None
    max_latency: str | None = None
    elastic: list[int] = Field(default_factory=list)
    depths: list[int] = Field(default_factory=list)
    exclude: list[str] = Field(default_factory=list)
    set: list[str] = Field(default_factory=list)
    sizes: dict[str, int] = Field(default_factory=dict)
    threads: int = Field(0, ge=0)
    search: int = Field(0, ge=0)
    tune: int = Field(0, ge=0)
    seed: int = 0
    keep_going: bool = False
    resume: bool = True
    trust_pickle: bool = False
    objects: list[str] = Field(default_factory=list)

    @field_validator("passes", mode="before")
    @classmethod
    def _joined(cls, passes: Any) -> Any:
        """A list of passes is a pipeline, too."""
        is_list = isinstance(passes, list) and all(isinstance(one, str) for one in passes)
        return ",".join(passes) if is_list else passes

    @field_validator("elastic")
    @classmethod
    def _widths(cls, widths: list[int]) -> list[int]:
        """The stored width is 8, so that all others follow from it."""
        if widths and (widths[0] != WIDEST or sorted(set(widths), reverse=True) != widths):
            raise ValueError(f"{widths} are no widths; write 8 and fewer bits, as in 8,4,2")
        if any(bits < LEAST_BITS for bits in widths):
            raise ValueError(f"{widths}: codes have at least {LEAST_BITS} bits")
        return widths

    @field_validator("depths")
    @classmethod
    def _depths(cls, depths: list[int]) -> list[int]:
        if min(depths, default=1) < 1 or len(set(depths)) != len(depths):
            raise ValueError(f"{depths} are no depths; write numbers of blocks, as in 2,4")
        return depths

    @field_validator("set")
    @classmethod
    def _readable_rules(cls, rules: list[str]) -> list[str]:
        for rule in rules:
            parse_rule(rule)
        return rules

    @property
    def rules(self) -> tuple[tuple[str, dict[str, str]], ...]:
        """The per-layer options: pattern and what it sets."""
        return tuple(parse_rule(rule) for rule in self.set)

    def to_yaml(self) -> str:
        """The recipe as a YAML document."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False)

    def anchored(self) -> "Recipe":
        """The same with absolute paths, so that it can be repeated from another folder."""
        places = {name: getattr(self, name) for name in PLACES}
        found = {
            name: str(Path(place).resolve())
            for name, place in places.items()
            if place and Path(place).exists()
        }
        return self.model_copy(update=found)


def parse_rule(text: str) -> tuple[str, dict[str, str]]:
    """Read `pattern:key=value key=value`.

    Raises:
        ValueError: If it has another form.
    """
    pattern, colon, settings = text.rpartition(":")
    pairs = [word.partition("=") for word in settings.replace(",", " ").split()]
    if not colon or not pattern or not pairs or any(not equals for _, equals, _ in pairs):
        raise ValueError(
            f'{text!r} is no rule; write "pattern:key=value", as in "encoder.*:bits=8"'
        )
    return pattern, {key: value for key, _, value in pairs}


def make_recipe(settings: dict[str, Any]) -> Recipe:
    """Check settings and make a recipe of them.

    Raises:
        UsageError: Naming the setting and what is wrong with it.
    """
    if unknown := [name for name in settings if name not in Recipe.model_fields]:
        known = ", ".join(Recipe.model_fields)
        raise UsageError(f"unknown setting {unknown[0]!r}; settings are {known}")
    try:
        return Recipe(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ")
        found = "" if first["type"] == "value_error" else f", not {first['input']!r}"
        raise UsageError(f"setting {name}: {reason}{found}") from error


def read_recipe(path: Path) -> dict[str, Any]:
    """Read a recipe file.

    Raises:
        UsageError: If it cannot be read or is no mapping.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UsageError(f"cannot read recipe {path}: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        line = str(error).replace("\n", " ")
        raise UsageError(f"recipe {path} is no YAML: {line}") from error
    if not isinstance(content, dict):
        raise UsageError(f"recipe {path} is no mapping of settings, such as `target: native`")
    return {str(name): value for name, value in content.items()}
