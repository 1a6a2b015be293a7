"""The C functions of one block in whole numbers; `int8.py` is their definition."""

from forwardonly import rules
from forwardonly.export.c.blocks import BlockWriter
from forwardonly.export.c.int8_arithmetic import COSINE, ONE
from forwardonly.export.c.int8_buffers import Int8Buffers
from forwardonly.export.c.plan import BlockPlan, Plan, Stage
from forwardonly.export.c.text import function, number


class Int8BlockWriter(BlockWriter):
    """Writes a block's functions, and notes in `parts` the C functions that they call."""

    def __init__(self, plan: Plan, buffers: Int8Buffers, block: BlockPlan, parts: set[str], exponents: dict[str, int]):
        super().__init__(plan, buffers.memory, block, parts)
        self.exponents = exponents
        self.to_features = f"gradients + {buffers.to_features}"
        self.slots = ("gradients", f"gradients + {buffers.second}")

    def exponent(self, path: str) -> int:
        return self.exponents[f"blocks.{self.index}.{path}"]

    def weight(self, name: str, of: str = "weights") -> str:
        return super().weight(name, "biases" if name.endswith(".bias") else of)

    def moved(self, name: str) -> str:
        """A weight and its error, as two arguments."""
        return f"{self.weight(name)}, {self.weight(name + '.error')}"

    def _forward(self) -> str:
        lines = []
        for index, stage in enumerate(self.block.stages):
            weight = self.weight(f"{stage.path}.weight")
            bits, relu = self.exponent(f"{stage.path}.weight"), int(stage.relu)
            given, out = self._input_of(index), self._output_of(index)
            if stage.convolution is None:
                self.use("linear", "product")
                sizes = f"{stage.incoming.size}, {stage.outgoing.size}, {bits}, {relu}"
                lines.append(f"linear({sizes}, {weight}, {self._bias(stage)}, {given}, {out});")
            else:
                self.use("convolution")
                lines.append(
                    f"convolution(&{self.shape_name(stage)}, {bits}, {relu}, {weight}, {self._bias(stage)}, {given}, "
                    f"{out}, {self._winner(index)});"
                )
        return function(f"static void forward_{self.index}(void)", lines, "The activation of the signal.")

    @property
    def _features(self) -> str:
        return self.at("features" if self.block.pooled else "activation")

    @property
    def score_bits(self) -> int:
        """The bits behind the point of the scores."""
        fixed = {rules.ForwardForward: 16, rules.ChannelStatic: 12, rules.Hyperspherical: COSINE}
        return fixed.get(type(self.block.rule)) or self.exponent("rule.classifier.weight") + ONE

    def _scores(self) -> str:
        block, lines = self.block, []
        of = f"of the activation, with {self.score_bits} bits behind the point."
        what = f"The class scores {of}"
        if isinstance(block.rule, rules.ForwardForward):
            self.use("goodness")
            line = f"return goodness({block.outgoing.size}, {self._count}, {self.at('activation')});"
            what = f"The goodness {of}"
            return function(f"static int64_t scores_{self.index}(void)", [line], what)
        if isinstance(block.rule, rules.ChannelStatic):
            self.use("group_scores")
            line = f"group_scores({self._grouped}, {self.at('activation')}, scores);"
            return function(f"static void scores_{self.index}(int64_t *scores)", [line], what)
        if block.pooled:
            self.use("grid_pool")
            lines.append(f"grid_pool(&grid_{self.index}, {self.at('activation')}, {self.at('features')});")
        self.use("product")
        if isinstance(block.rule, rules.Hyperspherical):
            self.use("cosines")
            lines.append(f"cosines({block.features}, {self.weight('rule.prototypes')}, {self._features}, scores);")
        else:
            weight, bias = self.weight("rule.classifier.weight"), self.weight("rule.classifier.bias")
            lines += [
                "for (int c = 0; c < FO_CLASSES; c++) {",
                f"    scores[c] = product({block.features}, {weight} + c * {block.features}, {self._features}) + "
                f"shifted({bias}[c], 8);",
                "}",
            ]
        return function(f"static void scores_{self.index}(int64_t *scores)", lines, what)

    @property
    def _count(self) -> int:
        """By what the sum of squares is divided for the goodness."""
        assert isinstance(self.block.rule, rules.ForwardForward)
        return self.block.outgoing.size if self.block.rule.reduction == "mean" else 1

    @property
    def _grouped(self) -> str:
        """The sizes that functions of groups of channels take."""
        assert isinstance(self.block.rule, rules.ChannelStatic)
        size = self.block.outgoing
        return f"{size.channels}, {size.pixels}, {int(self.block.rule.goodness == 'squared')}"

    def _contrast(self) -> list[str]:
        """The loss of one stream under ff and the gradient of the activation."""
        rule = self.block.rule
        assert isinstance(rule, rules.ForwardForward)
        self.use("sigmoid", "goodness")
        return [
            f"const int64_t over = scores_{self.index}() - {round(rule.threshold * 2**16)};",
            f"int32_t error = sigmoid((positive ? -over : over) * {round(rule.sharpness * 64)}, 16);",
            "const float rest = (float)(error < 32768 ? 32768 - error : 1) / 32768.0f;",
            f"const float loss = -logf(rest) / {number(rule.sharpness)};",
            "error = positive ? -error : error;",
            f"int bits = {15 + ONE - 1 + 8} + raised(1, &error); /* behind the point of the gradient */",
            f"goodness_gradient({self.block.outgoing.size}, {self._count}, error, {self.at('activation')}, "
            f"{self.slots[0]});",
            "rate *= 256;",
        ]

    def _learn(self) -> str:
        block, rule = self.block, self.block.rule
        self.use("fitted", "move", "relu_gradient")
        start = [
            "int64_t rate = (int64_t)(fo_learning_rate * 65536.0f + 0.5f);",
            f"forward_{self.index}();",
        ]
        if isinstance(rule, rules.ForwardForward):
            lines = [*start, *self._contrast()]
            for index in reversed(range(len(block.stages))):
                lines += self._stage_backward(index, block.stages[index])
            signature = f"static float learn_{self.index}(int positive)"
            return function(signature, [*lines, "return loss;"], "A step of one stream, whose loss is returned.")
        self.use("surprise")
        lines = [
            "int64_t scores[FO_CLASSES], sharp[FO_CLASSES];",
            "int32_t errors[FO_CLASSES];",
            "float loss;",
            *start,
            f"scores_{self.index}(scores);",
        ]
        to_features = self.to_features if block.pooled else self.slots[0]
        if isinstance(rule, rules.ChannelStatic):
            self.use("group_scores_gradient")
            sharpness, more = round(rule.scale * 64), ONE - 1 if rule.goodness == "squared" else 0
            lines += [
                "for (int c = 0; c < FO_CLASSES; c++) {",
                f"    sharp[c] = scores[c] * {sharpness};",
                "}",
                "const int up = surprise(12, label, sharp, errors, &loss);",
                f"int bits = {15 + 8 + more} + up; /* behind the point of the gradient */",
                f"group_scores_gradient({self._grouped}, errors, {self.at('activation')}, {self.slots[0]});",
                f"rate = shifted(rate * {sharpness}, 6) * 256;",
            ]
        elif isinstance(rule, rules.Hyperspherical):
            self.use("prototypes_update", "division")
            sharpness, e = round(rule.scale * 64), self.exponent("rule.prototypes")
            lines += [
                "for (int c = 0; c < FO_CLASSES; c++) {",
                f"    sharp[c] = (scores[c] - (c == label ? {round(rule.margin * 2**COSINE)} : 0)) * {sharpness};",
                "}",
                f"const int up = surprise({COSINE}, label, sharp, errors, &loss);",
                f"const int64_t length = length_of({block.features}, {self._features});",
                "int bits = 28 + up; /* behind the point of the gradient */",
                f"rate = shifted(rate * {sharpness}, 6);",
                f"prototypes_update({block.features}, rate, {offset('bits', 12 - 2 * e)}, scores, errors, "
                f"{self._features}, "
                f"{to_features}, {self.moved('rule.prototypes')});",
                "rate = divided(rate * 65536, length);",
            ]
        else:
            self.use("linear_to_input", "linear_update", "bias_update")
            path, e = "rule.classifier.weight", self.exponent("rule.classifier.weight")
            lines += [
                "for (int c = 0; c < FO_CLASSES; c++) {",
                "    sharp[c] = scores[c] * 64;",
                "}",
                f"const int up = surprise({self.score_bits}, label, sharp, errors, &loss);",
                f"int bits = {15 + e} + up; /* behind the point of the gradient */",
                f"linear_to_input({block.features}, FO_CLASSES, {self.weight(path)}, errors, {to_features});",
                f"linear_update({block.features}, FO_CLASSES, rate, {offset('up', 27 - e)}, errors, {self._features}, "
                f"{self.moved(path)});",
                f"bias_update(FO_CLASSES, 1, rate, {offset('up', 19 - e)}, errors, "
                f"{self.weight('rule.classifier.bias')});",
                "rate *= 256;",
            ]
        if block.pooled:
            self.use("grid_pool_gradient")
            lines += [
                f"bits -= fitted({block.features}, {to_features});",
                f"grid_pool_gradient(&grid_{self.index}, {to_features}, {self.slots[0]});",
                "bits += 8;",
            ]
        for index in reversed(range(len(block.stages))):
            lines += self._stage_backward(index, block.stages[index])
        return function(
            f"static float learn_{self.index}(int label)",
            [*lines, "return loss;"],
            "A step down the gradient of the block's own loss, which is returned.",
        )

    def _stage_backward(self, index: int, stage: Stage) -> list[str]:
        lines, slot = [], (len(self.block.stages) - 1 - index) % 2
        gradient, back = self.slots[slot], self.slots[1 - slot]
        path, size = f"{stage.path}.weight", stage.outgoing
        e = self.exponent(path)
        if stage.relu:
            lines.append(f"relu_gradient({size.size}, {self._output_of(index)}, {gradient});")
        lines.append(f"bits -= fitted({size.size}, {gradient});")
        flat = stage.convolution is None
        shape = "" if flat else f"&{self.shape_name(stage)}"
        if index:
            self.use("linear_to_input" if flat else "convolution_to_input")
            lines.append(
                f"linear_to_input({stage.incoming.size}, {size.size}, {self.weight(path)}, {gradient}, {back});"
                if flat
                else f"convolution_to_input({shape}, {self.weight(path)}, {gradient}, {self._winner(index)}, {back});"
            )
        self.use("linear_update" if flat else "convolution_update")
        lines.append(
            f"linear_update({stage.incoming.size}, {size.size}, rate, {offset('bits', 20 - e)}, {gradient}, "
            f"{self._input_of(index)}, {self.moved(path)});"
            if flat
            else f"convolution_update({shape}, rate, {offset('bits', 20 - e)}, {gradient}, {self._input_of(index)}, "
            f"{self._winner(index)}, sums, {self.moved(path)});"
        )
        if stage.bias:
            self.use("bias_update")
            bias = self.weight(f"{stage.path}.bias")
            lines.append(
                f"bias_update({size.channels}, {size.pixels}, rate, {offset('bits', 12 - e)}, {gradient}, {bias});"
            )
        if index:
            lines.append(f"bits += {e};")
        return lines

    def _pass(self) -> str:
        size, at = self.block.outgoing, self.at("activation")
        if self.block.passes == "unit_rms":
            self.use("unit_rms", "product")
            lines = [f"unit_rms({size.size}, {at});"]
        elif self.block.passes == "group_norm":
            self.use("group_norm")
            lines = [f"group_norm({size.channels}, {size.pixels}, {at});"]
        else:
            self.use("standardise", "product")
            count = self._normed_together(size)
            lines = [
                f"for (int c = 0; c < {size.size // count}; c++) {{",
                f"    standardise({count}, {at} + c * {count});",
                "}",
            ]
        return function(
            f"static void pass_{self.index}(void)", lines, "The activation, in place, as the next block's signal."
        )


def offset(name: str, more: int) -> str:
    """A variable and a constant, added."""
    return f"{name} {'-' if more < 0 else '+'} {abs(more)}"
