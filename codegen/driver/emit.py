"""Writes the C source of a model's driver: tables, the memory plan, and the steps in a row."""

from collections.abc import Hashable
from functools import reduce

from effc.codegen.driver.expressions import c_expression, c_text
from effc.codegen.driver.weights import WeightFile, fnv1a
from effc.codegen.executable import Executable, Fill, Pointer, Step
from effc.ir.program import TensorSpec
from effc.ir.symbols import Size, Symbol, product
from effc.ir.target import Target

NOTED = "&large"


def driver_source(
    executable: Executable,
    symbols: list[Symbol],
    target: Target,
    weights: WeightFile,
) -> str:
    """The text of `model.c`.

    Args:
        executable: What to run.
        symbols: The symbolic dimensions with their ranges, in order.
        target: For processor features and threads.
        weights: Where each weight lies.
    """
    return _Emitter(executable, symbols, target, weights).text()


class _Emitter:
    def __init__(
        self,
        executable: Executable,
        symbols: list[Symbol],
        target: Target,
        weights: WeightFile,
    ) -> None:
        self.executable, self.symbols, self.target = executable, symbols, target
        self.weights = weights

    def text(self) -> str:
        """The whole file."""
        parts = [
            self._constants(),
            '#include "runtime.c"',
            self._features(),
            self._unpacked(),
            self._interface(),
            self._prototypes(),
            self._slots(),
            self._shapes(),
            self._steps(),
        ]
        return "\n\n".join(parts) + "\n"

    def _constants(self) -> str:
        values = {
            "EFFC_SYMBOLS": len(self.symbols),
            "EFFC_SLOTS": len(self.executable.memory.slots),
            "EFFC_THREADS": self.target.cores,
            "EFFC_WEIGHT_NBYTES": f"UINT64_C({self.weights.nbytes})",
            "EFFC_UNPACKED": len(self.weights.unpacked),
            "EFFC_UNPACKED_NBYTES": f"UINT64_C({self.weights.room})",
            "EFFC_HEADER_NBYTES": f"UINT64_C({len(self.weights.header)})",
            "EFFC_HEADER_HASH": f"UINT64_C({fnv1a(self.weights.header)})",
        }
        return "\n".join(f"#define {name} {value}" for name, value in values.items())

    def _features(self) -> str:
        names = ", ".join(c_text(feature) for feature in self.target.features)
        return (
            "static const char *effc_missing_feature(void) {\n"
            f"  static const char *const names[] = {{{names}{', ' if names else ''}NULL}};\n"
            "  return effc_first_missing(names);\n}"
        )

    def _unpacked(self) -> str:
        rows = ", ".join(
            f"{{{one.offset}, {one.place}, {one.stored.count}, {one.stored.nonzero}, "
            f"{one.stored.itemsize}, {one.stored.bits}}}"
            for one in self.weights.unpacked.values()
        )
        return (
            "static const effc_packed *effc_packed_weight(int i) {\n"
            f"  static const effc_packed rows[] = {{{rows or '{0}'}}};\n"
            "  return &rows[i];\n}"
        )

    def _interface(self) -> str:
        signature = self.executable.signature
        lines = []
        for kind, specs in (("input", signature.inputs), ("output", signature.outputs)):
            for position, spec in enumerate(specs):
                dims = ", ".join(self._dim(size) for size in spec.shape) or "0"
                lines.append(f"static const int64_t {kind}_dims_{position}[] = {{{dims}}};")
            rows = ", ".join(self._row(kind, i, spec) for i, spec in enumerate(specs))
            lines.append(f"static const effc_tensor {kind}s[] = {{{rows}}};")
            lines.append(f"int effc_{kind}_count(void) {{ return {len(specs)}; }}")
            lines.append(
                f"const effc_tensor *effc_{kind}(int i) "
                f"{{ return i >= 0 && i < {len(specs)} ? &{kind}s[i] : NULL; }}"
            )
        rows = ", ".join(f"{{{c_text(s.name)}, {s.minimum}, {s.maximum}}}" for s in self.symbols)
        count = len(self.symbols)
        lines.append(f"static const effc_symbol symbols[] = {{{rows or '{NULL, 0, 0}'}}};")
        lines.append(f"int effc_symbol_count(void) {{ return {count}; }}")
        lines.append(
            "const effc_symbol *effc_symbol_info(int i) "
            f"{{ return i >= 0 && i < {count} ? &symbols[i] : NULL; }}"
        )
        names = ", ".join(c_text(f"{s.family} {s.name}") for s in self.executable.steps)
        count = len(self.executable.steps)
        lines.append(f"static const char *const step_names[] = {{{names or 'NULL'}}};")
        lines.append(f"int effc_step_count(void) {{ return {count}; }}")
        lines.append(
            "const char *effc_step_name(int i) "
            f"{{ return i >= 0 && i < {count} ? step_names[i] : NULL; }}"
        )
        return "\n".join(lines)

    def _dim(self, size: Size) -> str:
        if isinstance(size, int):
            return str(size)
        names = [symbol.name for symbol in self.symbols]
        is_plain = size.is_Symbol and size.name in names
        return str(-1 - names.index(size.name)) if is_plain else str(-1 - len(names))

    @staticmethod
    def _row(kind: str, position: int, spec: TensorSpec) -> str:
        dtype = str(spec.dtype).removeprefix("torch.")
        return f'{{{c_text(spec.name)}, "{dtype}", {len(spec.shape)}, {kind}_dims_{position}}}'

    def _prototypes(self) -> str:
        lines = []
        for stage in self.executable.stages.values():
            pointers = ["void *"] * len(stage.params)
            sizes = ["int64_t"] * (len(self.symbols) + 2)
            lines.append(f"void {stage.symbol}({', '.join(pointers + sizes)});")
        return "\n".join(lines)

    def _sizes(self, array: str) -> list[str]:
        """Declarations of the symbols' values."""
        names = enumerate(symbol.name for symbol in self.symbols)
        return [f"  const int64_t s_{name} = {array}[{i}]; (void)s_{name};" for i, name in names]

    def _slots(self) -> str:
        """Where buffers lie; fails where sizes of tensors exceed what a machine can address."""
        memory = self.executable.memory
        lines = [
            "static int effc_slots(const int64_t *sizes, int64_t *slots, size_t *arena, "
            "size_t *scratch) {",
            *self._sizes("sizes"),
            "  int64_t at = 0, need = 0;",
            "  int large = 0;",
        ]
        signature = self.executable.signature
        for spec in (*signature.inputs, *signature.outputs):
            lines.append(f"  (void){self._room([product([*spec.shape, spec.dtype.itemsize])])};")
        for number, slot in enumerate(memory.slots):
            if memory.is_static:
                lines.append(f"  slots[{number}] = {memory.offsets[number]};")
            else:
                lines.append(f"  slots[{number}] = at; at += {self._room(slot)};")
        if memory.is_static:
            lines.append(f"  at = {memory.nbytes};")
        if self.executable.scratch:
            lines.append(f"  need = {self._room(self.executable.scratch)};")
        lines.append("  *arena = (size_t)at; *scratch = (size_t)need; (void)sizes; (void)slots;")
        return "\n".join([*lines, "  return large;\n}"])

    @staticmethod
    def _room(sizes: list[Size]) -> str:
        """Bytes of the largest of some buffers; notes what is too large."""
        largest = [c_expression(nbytes, NOTED) for nbytes in dict.fromkeys(sizes)]
        text = reduce(lambda first, other: f"effc_max({first}, {other})", largest)
        return f"effc_room({text}, {NOTED})"

    def _shapes(self) -> str:
        lines = [
            "int effc_output_shape(int index, const int64_t *sizes, int64_t *shape) {",
            "  if (effc_check(sizes)) return 1;",
            *self._sizes("sizes"),
            "  int large = 0;",
            "  switch (index) {",
        ]
        for position, spec in enumerate(self.executable.signature.outputs):
            values = " ".join(
                f"shape[{dim}] = {c_expression(size, NOTED)};"
                for dim, size in enumerate(spec.shape)
            )
            lines.append(f"    case {position}: {values} break;")
        lines.append('    default: return effc_fail("%sno output %lld", "", index, 0);\n  }')
        lines.append("  (void)shape; (void)sizes;")
        return "\n".join([*lines, "  return large ? effc_too_large() : 0;\n}"])

    def _steps(self) -> str:
        lines = [
            "static void effc_steps(struct effc_model *m, int thread, int threads) {",
            *self._sizes("m->sizes"),
            "  uint8_t *const A = m->arena, *const S = m->scratch + thread * m->scratch_nbytes;",
            "  const uint8_t *const W = m->weights;",
            "  const int64_t *const P = m->slots;",
            "  (void)A; (void)S; (void)W; (void)P;",
        ]
        for number, step in enumerate(self.executable.steps):
            lines += self._step(number, step)
        return "\n".join([*lines, "}"])

    def _step(self, number: int, step: Step) -> list[str]:
        tasks = c_expression(step.stage.tasks)
        arguments = [self._address(pointer) for pointer in step.pointers]
        arguments += [f"s_{symbol.name}" for symbol in self.symbols]
        fills = [f"    if (thread == 0) {self._fill(fill)}" for fill in step.fills]
        call = f"{step.stage.symbol}({', '.join([*arguments, 'begin', 'end'])});"
        share = [
            "    const int64_t begin = effc_share(tasks, thread, threads);",
            "    const int64_t end = effc_share(tasks, thread + 1, threads);",
        ]
        whole = ["    const int64_t begin = 0, end = thread == 0 ? tasks : 0;"]
        return [
            f"  {{ /* {number}: {step.family} */",
            *fills,
            f"    const int64_t tasks = {tasks};",
            *(whole if step.is_alone else share),
            f"    if (begin < end) {call}",
            f"    effc_end(m, thread, threads, {number}, {int(step.must_meet)});",
            "  }",
        ]

    def _address(self, pointer: Pointer) -> str:
        offset = c_expression(pointer.offset)
        plus = "" if pointer.offset == 0 else f" + {offset}"
        match pointer.base:
            case "input":
                return f"(uint8_t *)m->inputs[{pointer.key}]{plus}"
            case "output":
                return f"(uint8_t *)m->outputs[{pointer.key}]{plus}"
            case "weight":
                return f"{self._weight(str(pointer.key))}{plus}"
            case "scratch":
                return f"S{plus}"
        return f"A + {self._slot(pointer.key)}{plus}"

    def _weight(self, name: str) -> str:
        unpacked = self.weights.unpacked.get(name)
        if unpacked:
            return f"m->unpacked + {unpacked.place}"
        return f"(uint8_t *)W + {self.weights.offsets[name]}"

    def _slot(self, key: Hashable) -> str:
        memory = self.executable.memory
        number = memory.slot_of[key]
        return str(memory.offsets[number]) if memory.is_static else f"P[{number}]"

    def _fill(self, fill: Fill) -> str:
        images, channels, height, width = map(c_expression, fill.shape)
        pixel = c_expression(product([fill.shape[1], fill.itemsize]))
        source = f"(const int32_t *)({self._address(fill.fill)})" if fill.fill else "NULL"
        del channels
        return (
            f"effc_border({self._address(fill.start)}, {images}, {height}, {width}, "
            f"{c_expression(fill.border.rows)}, {c_expression(fill.border.columns)}, {pixel}, "
            f"{source}, {fill.fill_stride});"
        )
