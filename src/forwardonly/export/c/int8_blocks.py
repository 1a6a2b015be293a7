"""The C functions of one block in whole numbers; `int8.py` is their definition.

Without batch norm they take one example. With it they take all examples of a batch, row by row where these do not meet.
"""

from forwardonly import rules
from forwardonly.export.c.blocks import BlockWriter
from forwardonly.export.c.int8_arithmetic import COSINE, ONE
from forwardonly.export.c.int8_buffers import Int8Buffers
from forwardonly.export.c.int8_norms import whole_momentum
from forwardonly.export.c.int8_weights import least
from forwardonly.export.c.plan import BlockPlan, Plan, Stage
from forwardonly.export.c.text import function, number


class Int8BlockWriter(BlockWriter):
    """Writes a block's functions, and notes in `parts` the C functions that they call."""

    def __init__(self, plan: Plan, buffers: Int8Buffers, block: BlockPlan, parts: set[str], exponents: dict[str, int]):
        super().__init__(plan, buffers.memory, block, parts)
        self.exponents = exponents
        self.together = plan.normed
        self.to_features = f"gradients + TO_FEATURES_{self.index}"
        self.slots = ("gradients", f"gradients + {buffers.second}")
        self.int32 = {f"TO_FEATURES_{self.index}": buffers.to_features} if block.pooled else {}
        self.deviations: dict[int, str] = {}
        for stage, at in buffers.deviations[self.index].items():
            name = f"DEVIATION_{stage}_{self.index}"
            self.int32[name], self.deviations[stage] = at, f"gradients + {name}"
        self.activation = "activation" if self.together else self.at("activation")
        self.gradient = "gradient" if self.together else self.slots[0]

    def exponent(self, path: str) -> int:
        return self.exponents[f"blocks.{self.index}.{path}"]

    def weight(self, name: str, of: str = "weights") -> str:
        return super().weight(name, "biases" if name.endswith(".bias") else of)

    def target(self, name: str) -> str:
        """Where the step of a bias goes: to it, or to the sum of a batch."""
        return BlockWriter.weight(self, name, "steps") if self.plan.gathers else self.weight(name)

    def moved(self, name: str) -> str:
        """Where the step of a weight goes, as arguments: a weight and its error, or the sum of a batch."""
        if self.plan.gathers:
            return self.target(name)
        return f"{self.weight(name)}, {self.weight(name + '.error')}"

    def bits(self, name: str, more: int) -> str:
        """The bits behind the point of a step of a weight, as a variable and what is added; of a batch's sum 8 less."""
        return offset(name, more - 8 * self.plan.gathers)

    def row(self, pointer: str, size: int) -> str:
        """Where a row of a buffer is, of rows of a size."""
        return f"{pointer} + r * {size}" if self.together else pointer

    def each_row(self, lines: list[str], rows: int | str) -> list[str]:
        """Lines for each row."""
        if not self.together:
            return lines
        return [f"for (int r = 0; r < {rows}; r++) {{", *(f"    {line}" for line in lines), "}"]

    def _head(self) -> str:
        lines = [super()._head()]
        if self.int32:
            names = ", ".join(f"{name} = {at}" for name, at in self.int32.items())
            lines.append(f"enum {{ {names} }}; /* in `gradients` */\n")
        for index, stage in enumerate(self.block.stages):
            if stage.norm:
                self.use("batch_norm")
                e, size = self.exponent(f"{stage.path}.weight"), stage.outgoing
                fields = (
                    *(size.channels, size.pixels, e + ONE, self.exponent(f"{stage.norm}.weight")),
                    *(least(self.exponents, self.block, stage), whole_momentum(stage.momentum)),
                )
                lines.append(f"static const norm_shape {self.norm_name(index)} = {{{', '.join(map(str, fields))}}};\n")
        return "".join(lines)

    def norm_name(self, index: int) -> str:
        return f"norm_{self.index}_{index}"

    def _slot(self, index: int) -> int:
        """Which of the two slots has the gradient of a stage's output."""
        return (len(self.block.stages) - 1 - index) % 2

    def _forward(self) -> str:
        lines = []
        for index, stage in enumerate(self.block.stages):
            bits = "" if stage.norm else f"{self.exponent(f'{stage.path}.weight')}, {int(stage.relu)}, "
            given = self.row(self._input_of(index), stage.incoming.size)
            out = self.row(self.slots[self._slot(index)] if stage.norm else self._output_of(index), stage.outgoing.size)
            weights = f"{self.weight(f'{stage.path}.weight')}, {self._bias(stage)}, {given}, {out}"
            name = ("linear" if stage.convolution is None else "convolution") + ("_sums" if stage.norm else "")
            self.use(name)
            if stage.convolution is None:
                self.use("product")
                line = f"{name}({stage.incoming.size}, {stage.outgoing.size}, {bits}{weights});"
            else:
                line = f"{name}(&{self.shape_name(stage)}, {bits}{weights}, {self._winner_of(index)});"
            lines += self.each_row([line], "rows")
            if stage.norm:
                running = ", ".join(
                    BlockWriter.weight(self, f"{stage.norm}.running_{of}", "running") for of in ("mean", "deviation")
                )
                lines.append(
                    f"batch_norm(&{self.norm_name(index)}, rows, training, {int(stage.relu)}, "
                    f"{self.weight(f'{stage.norm}.weight')}, {self.weight(f'{stage.norm}.bias')}, {running}, "
                    f"{self.slots[self._slot(index)]}, {self.at(f'standard_{index}')}, {self.deviations[index]}, "
                    f"{self._output_of(index)});"
                )
        if self.together and not self.deviations:
            lines.insert(0, "(void)training; /* it computes the same in training */")
        signature = f"static void forward_{self.index}({'int rows, int training' if self.together else 'void'})"
        return function(signature, lines, "The activation of the signal.")

    def _winner_of(self, index: int) -> str:
        winner = self._winner(index)
        return winner if winner == "NULL" else self.row(winner, self.block.stages[index].outgoing.size)

    @property
    def _features(self) -> str:
        return self.at("features") if self.block.pooled else self.activation

    @property
    def score_bits(self) -> int:
        """The bits behind the point of the scores."""
        fixed = {rules.ForwardForward: 16, rules.ChannelStatic: 12, rules.Hyperspherical: COSINE}
        return fixed.get(type(self.block.rule)) or self.exponent("rule.classifier.weight") + ONE

    @property
    def _given(self) -> str:
        """The parameter of functions of one activation, where there are several."""
        return "const int8_t *activation" if self.together else ""

    def _scores(self) -> str:
        block, lines = self.block, []
        of = f"of the activation, with {self.score_bits} bits behind the point."
        what = f"The class scores {of}"
        if isinstance(block.rule, rules.ForwardForward):
            self.use("goodness")
            line = f"return goodness({block.outgoing.size}, {self._count}, {self.activation});"
            what = f"The goodness {of}"
            return function(f"static int64_t scores_{self.index}({self._given or 'void'})", [line], what)
        if isinstance(block.rule, rules.ChannelStatic):
            self.use("group_scores")
            line = f"group_scores({self._grouped}, {self.activation}, scores);"
            return function(
                f"static void scores_{self.index}({self._given}{', ' if self._given else ''}int64_t *scores)",
                [line],
                what,
            )
        if block.pooled:
            self.use("grid_pool")
            lines.append(f"grid_pool(&grid_{self.index}, {self.activation}, {self.at('features')});")
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
        return function(
            f"static void scores_{self.index}({self._given}{', ' if self._given else ''}int64_t *scores)", lines, what
        )

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
            f"const int64_t over = {self._scores_call()} - {round(rule.threshold * 2**16)};",
            f"int32_t error = sigmoid((positive ? -over : over) * {round(rule.sharpness * 64)}, 16);",
            "const float rest = (float)(error < 32768 ? 32768 - error : 1) / 32768.0f;",
            f"const float loss = -logf(rest) / {number(rule.sharpness)};",
            "error = positive ? -error : error;",
            f"int bits = {15 + ONE - 1 + 8} + raised(1, &error); /* behind the point of the gradient */",
            f"goodness_gradient({self.block.outgoing.size}, {self._count}, error, {self.activation}, {self.gradient});",
            "rate *= 256;",
        ]

    def _scores_call(self) -> str:
        given = [self.activation] if self.together else []
        scores = [] if self.plan.contrastive else ["scores"]
        return f"scores_{self.index}({', '.join([*given, *scores])})"

    def _learn(self) -> str:
        block = self.block
        self.use("fitted", "gather" if self.plan.gathers else "move", "relu_gradient")
        judge = self._contrast() if self.plan.contrastive else self._judge()
        backward: list[str] = []
        for index in reversed(range(len(block.stages))):
            backward += self._stage_backward(index, block.stages[index])
        what = "A step down the gradient of the block's own loss, which is returned."
        rate = "int64_t rate = whole_rate();"
        if self.together:
            return self._learn_together([rate, *judge], backward, what)
        lines = [rate, f"forward_{self.index}();", *judge, *backward, "return loss;"]
        if self.plan.contrastive:
            signature = f"static float learn_{self.index}(int positive)"
            return function(signature, lines, "A step of one stream, whose loss is returned.")
        declared = ["int64_t scores[FO_CLASSES], sharp[FO_CLASSES];", "int32_t errors[FO_CLASSES];", "float loss;"]
        return function(f"static float learn_{self.index}(int label)", [*declared, *lines], what)

    def _learn_together(self, judge: list[str], backward: list[str], what: str) -> str:
        """The step of all examples of a batch, whose gradients meet in a batch norm."""
        size, rows, group = self.block.outgoing.size, self.rows, self.plan.group
        self.use("weighted")
        each = [
            f"const int8_t *activation = {self.at('activation')} + r * {size};",
            f"int32_t *gradient = {self.slots[0]} + r * {size};",
        ]
        if self.plan.contrastive:
            each.append(f"const int positive = r < {group};")
        else:
            each += ["const int label = labels[r];", "int64_t scores[FO_CLASSES], sharp[FO_CLASSES];"]
            each += ["int32_t errors[FO_CLASSES];", "float loss;"]
        lines = [
            "float sum = 0.0f;",
            f"int row_bits[{rows}];",
            f"forward_{self.index}({rows}, 1);",
            *self.each_row(
                [*each, *judge, f"row_bits[r] = weighted({size}, bits, rate, gradient);", "sum += loss;"], rows
            ),
            f"int bits = aligned({rows}, {size}, row_bits, {self.slots[0]});",
            "const int64_t rate = 1 << 24; /* it is in the gradients already */",
            *backward,
            f"return sum{'' if group == 1 else f' / {number(group)}'};",
        ]
        labels = "void" if self.plan.contrastive else "const int *labels"
        return function(f"static float learn_{self.index}({labels})", lines, what)

    def _judge(self) -> list[str]:
        """The loss of a one-pass rule, the gradient of the activation, and the step of the rule's own weights."""
        block, rule = self.block, self.block.rule
        self.use("surprise")
        lines = [f"{self._scores_call()};"]
        to_features = self.to_features if block.pooled else self.gradient
        if isinstance(rule, rules.ChannelStatic):
            self.use("group_scores_gradient")
            sharpness, more = round(rule.scale * 64), ONE - 1 if rule.goodness == "squared" else 0
            lines += [
                "for (int c = 0; c < FO_CLASSES; c++) {",
                f"    sharp[c] = scores[c] * {sharpness};",
                "}",
                "const int up = surprise(12, label, sharp, errors, &loss);",
                f"int bits = {15 + 8 + more} + up; /* behind the point of the gradient */",
                f"group_scores_gradient({self._grouped}, errors, {self.activation}, {self.gradient});",
                f"rate = shifted(rate * {sharpness}, 6) * 256;",
            ]
        elif isinstance(rule, rules.Hyperspherical):
            self.use("prototypes_update", "division")
            sharpness, e = round(rule.scale * 64), self.exponent("rule.prototypes")
            prototypes = self.moved("rule.prototypes")
            if self.plan.gathers:  # which are read too
                prototypes = f"{self.weight('rule.prototypes')}, {prototypes}"
            lines += [
                "for (int c = 0; c < FO_CLASSES; c++) {",
                f"    sharp[c] = (scores[c] - (c == label ? {round(rule.margin * 2**COSINE)} : 0)) * {sharpness};",
                "}",
                f"const int up = surprise({COSINE}, label, sharp, errors, &loss);",
                f"const int64_t length = length_of({block.features}, {self._features});",
                "int bits = 28 + up; /* behind the point of the gradient */",
                f"rate = shifted(rate * {sharpness}, 6);",
                f"prototypes_update({block.features}, rate, {self.bits('bits', 12 - 2 * e)}, scores, errors, "
                f"{self._features}, "
                f"{to_features}, {prototypes});",
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
                f"linear_update({block.features}, FO_CLASSES, rate, {self.bits('up', 27 - e)}, errors, "
                f"{self._features}, {self.moved(path)});",
                f"bias_update(FO_CLASSES, 1, rate, {offset('up', 19 - e)}, errors, "
                f"{self.target('rule.classifier.bias')});",
                "rate *= 256;",
            ]
        if block.pooled:
            self.use("grid_pool_gradient")
            lines += [
                f"bits -= fitted({block.features}, {to_features});",
                f"grid_pool_gradient(&grid_{self.index}, {to_features}, {self.gradient});",
                "bits += 8;",
            ]
        return lines

    def _stage_backward(self, index: int, stage: Stage) -> list[str]:
        lines, slot = [], self._slot(index)
        gradient, back = self.slots[slot], self.slots[1 - slot]
        path, size = f"{stage.path}.weight", stage.outgoing
        e, count = self.exponent(path), size.size * self.rows
        if stage.relu:
            lines.append(f"relu_gradient({count}, {self._output_of(index)}, {gradient});")
        lines.append(f"bits -= fitted({count}, {gradient});")
        if stage.norm:
            lines += self._norm_backward(index, stage)
        flat, each = stage.convolution is None, list[str]()
        shape = "" if flat else f"&{self.shape_name(stage)}"
        own, given = self.row(gradient, size.size), self.row(self._input_of(index), stage.incoming.size)
        if index:
            self.use("linear_to_input" if flat else "convolution_to_input")
            to = self.row(back, stage.incoming.size)
            each.append(
                f"linear_to_input({stage.incoming.size}, {size.size}, {self.weight(path)}, {own}, {to});"
                if flat
                else f"convolution_to_input({shape}, {self.weight(path)}, {own}, {self._winner_of(index)}, {to});"
            )
        self.use("linear_update" if flat else "convolution_update")
        each.append(
            f"linear_update({stage.incoming.size}, {size.size}, rate, {self.bits('bits', 20 - e)}, {own}, "
            f"{given}, {self.moved(path)});"
            if flat
            else f"convolution_update({shape}, rate, {self.bits('bits', 20 - e)}, {own}, {given}, "
            f"{self._winner_of(index)}, sums, {self.moved(path)});"
        )
        if stage.bias:
            each.append(self._bias_update(f"{stage.path}.bias", stage, offset("bits", 12 - e), own))
        lines += self.each_row(each, self.rows)
        if index:
            lines.append(f"bits += {e};")
        return lines

    def _bias_update(self, path: str, stage: Stage, bits: str, gradient: str) -> str:
        self.use("bias_update")
        size = stage.outgoing
        return f"bias_update({size.channels}, {size.pixels}, rate, {bits}, {gradient}, {self.target(path)});"

    def _norm_backward(self, index: int, stage: Stage) -> list[str]:
        """The step of a batch norm's scale and shift, and the gradient in front of it, in place."""
        self.use("batch_norm_gradient", "scale_update")
        name, size, gradient = self.norm_name(index), stage.outgoing, self.slots[self._slot(index)]
        scale, standard, factors = f"{stage.norm}.weight", self.at(f"standard_{index}"), self.deviations[index]
        e, own = self.exponent(scale), self.row(gradient, size.size)
        steps = [
            f"scale_update({size.channels}, {size.pixels}, rate, {self.bits('bits', 20 - e)}, {own}, "
            f"{self.row(standard, size.size)}, {self.moved(scale)});",
            self._bias_update(f"{stage.norm}.bias", stage, offset("bits", 12 - e), own),
        ]
        return [
            f"const int factor_bits_{index} = norm_factors(&{name}, {self.weight(scale)}, {factors});",
            *self.each_row(steps, self.rows),
            f"bits += factor_bits_{index} + batch_norm_gradient(&{name}, {self.rows}, {standard}, {factors}, "
            f"{gradient});",
            f"bits -= fitted({size.size * self.rows}, {gradient});",
        ]

    def _pass(self) -> str:
        size = self.block.outgoing
        at = self.row(self.at("activation"), size.size)
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
        signature = f"static void pass_{self.index}({'int rows' if self.together else 'void'})"
        return function(
            signature, self.each_row(lines, "rows"), "The activation, in place, as the next block's signal."
        )


def offset(name: str, more: int) -> str:
    """A variable and a constant, added."""
    return f"{name} {'-' if more < 0 else '+'} {abs(more)}"
