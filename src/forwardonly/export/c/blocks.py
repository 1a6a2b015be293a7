"""The C functions of one block: forward, scores, the local loss with its gradient, and what the block passes on."""

import math
from collections.abc import Iterator

from forwardonly import rules
from forwardonly.export.c.buffers import Buffers, winners
from forwardonly.export.c.plan import BlockPlan, Map, Plan, Stage
from forwardonly.export.c.text import c_name, function, indexed, number


class BlockWriter:
    """Writes a block's functions, and notes in `parts` the C functions that they call."""

    def __init__(self, plan: Plan, buffers: Buffers, block: BlockPlan, parts: set[str]):
        self.plan, self.block, self.parts = plan, block, parts
        self.index = block.index
        self.offsets, self.sizes = buffers.offsets[self.index], buffers.sizes[self.index]
        self.rows = plan.rows
        self.winners: dict[int, int] = {}
        at = 0
        for stage, size in winners(plan, block).items():
            self.winners[stage], at = at, at + size

    def text(self) -> str:
        """All functions of the block."""
        pieces = [self._head(), self._forward(), self._scores(), self._learn()]
        if self.block.passes:
            pieces.append(self._pass())
        return "\n".join(pieces)

    # Names in C

    def at(self, buffer: str) -> str:
        return f"memory + {buffer.upper()}_{self.index}"

    def weight(self, name: str, of: str = "weights.trained") -> str:
        return f"{of}.blocks_{self.index}.{c_name(name)}"

    def target(self, name: str) -> str:
        return self.weight(name, "TARGET")

    def shape_name(self, stage: Stage) -> str:
        return f"convolution_{self.index}_{c_name(stage.path)}"

    def use(self, *names: str) -> None:
        self.parts.update(names)

    # Pieces

    def _head(self) -> str:
        block = self.block
        words = ", ".join(stage.words for stage in block.stages)
        lines = [f"/* ---- Block {self.index}: {words}. Rule: {self.plan.rule_name}. ---- */", ""]
        room = "" if self.rows == 1 else f", with room for {self.rows} signals"
        lines.append(f"/* Its buffers in `memory`{room}. */")
        lines.append("enum {")
        for name, offset in sorted(self.offsets.items(), key=lambda item: item[1]):
            lines.append(f"    {name.upper()}_{self.index} = {offset}, /* {self.sizes[name]} */")
        lines[-1] = lines[-1].replace(",", "", 1)
        lines.append("};")
        for stage in self._convolutions():
            lines.append(self._shape(stage))
        if block.pooled:
            high, wide = block.windows
            read = block.read
            lines.append(
                f"static const grid_shape grid_{self.index} = "
                f"{{{read.channels}, {read.height}, {read.width}, {high}, {wide}}};"
            )
        return "\n".join(lines) + "\n"

    def _convolutions(self) -> Iterator[Stage]:
        for stage in [*self.block.stages, *([self.block.head] if self.block.head else [])]:
            if stage.convolution is not None:
                yield stage

    def _shape(self, stage: Stage) -> str:
        convolution = stage.convolution
        assert convolution is not None
        pairs = (convolution.kernel_size, convolution.stride, convolution.padding, stage.pool)
        fields = [*stage.incoming, *stage.outgoing, *(int(size) for pair in pairs for size in pair)]
        fields.append(int(convolution.groups > 1))
        self.use("convolution_shape")
        return f"static const convolution_shape {self.shape_name(stage)} = {{{', '.join(map(str, fields))}}};"

    def _bias(self, stage: Stage) -> str:
        return self.weight(f"{stage.path}.bias") if stage.bias else "NULL"

    def _to_bias(self, stage: Stage) -> str:
        return self.target(f"{stage.path}.bias") if stage.bias else "NULL"

    def _winner(self, index: int) -> str:
        return f"winners + {self.winners[index]}" if index in self.winners else "NULL"

    def _input_of(self, index: int) -> str:
        if index == 0:
            return self.at("signal")
        return self.at(f"{'normed' if self.block.stages[index - 1].standardise else 'out'}_{index - 1}")

    def _output_of(self, index: int) -> str:
        return self.at("activation" if index == len(self.block.stages) - 1 else f"out_{index}")

    def _forward(self) -> str:
        lines = []
        for index, stage in enumerate(self.block.stages):
            given, out, size = self._input_of(index), self._output_of(index), stage.outgoing
            weight = self.weight(f"{stage.path}.weight")
            if stage.convolution is None:
                self.use("linear")
                lines.append(
                    f"linear(rows, {stage.incoming.size}, {size.size}, {weight}, {self._bias(stage)}, {given}, {out});"
                )
            else:
                self.use("convolution")
                lines.append(
                    f"convolution(&{self.shape_name(stage)}, rows, {weight}, {self._bias(stage)}, {given}, {out}, "
                    f"{self._winner(index)});"
                )
            if stage.norm:
                self.use("batch_norm")
                running = (self.weight(f"{stage.norm}.running_{of}", "weights.running") for of in ("mean", "var"))
                lines.append(
                    f"batch_norm(rows, {size.channels}, {size.pixels}, training, {number(stage.epsilon)}, "
                    f"{number(stage.momentum)}, {self.weight(f'{stage.norm}.weight')}, "
                    f"{self.weight(f'{stage.norm}.bias')}, {', '.join(running)}, {out}, "
                    f"{self.at(f'standard_{index}')}, {self.at(f'inverse_{index}')});"
                )
            if stage.relu:
                self.use("relu")
                lines.append(f"relu(rows * {size.size}, {out});")
            if stage.standardise:
                self.use("standardise")
                normed, count = self.at(f"normed_{index}"), self._normed_together(size)
                lines += [
                    f"memcpy({normed}, {out}, (size_t)(rows * {size.size}) * sizeof(float));",
                    f"for (int i = 0; i < rows * {size.size // count}; i++) {{",
                    f"    {indexed(self.at(f'inverse_{index}'), 'i')} = standardise({count}, {normed} + i * {count});",
                    "}",
                ]
        if not any(stage.norm for stage in self.block.stages):
            lines.insert(0, "(void)training; /* it computes the same in training */")
        return function(
            f"static void forward_{self.index}(int rows, int training)", lines, "The activation of the signal."
        )

    def _normed_together(self, size: Map) -> int:
        """How many values an instance norm standardises together."""
        return size.pixels if size.pixels > 1 else size.size

    def _scores(self) -> str:
        block, rule, lines = self.block, self.block.rule, []
        if isinstance(rule, rules.ForwardForward):
            self.use("mean_square")
            factor = "" if rule.reduction == "mean" else f" * {number(block.outgoing.size)}"
            return function(
                f"static float goodness_{self.index}(const float *activation)",
                [f"return mean_square({block.outgoing.size}, activation){factor};"],
                "The goodness of one activation.",
            )
        if isinstance(rule, rules.ChannelStatic):
            self.use("group_scores")
            size = block.outgoing
            squared = int(rule.goodness == "squared")
            lines.append(
                f"group_scores({size.channels}, {size.pixels}, {squared}, {number(rule.scale)}, activation, scores);"
            )
        else:
            features = self.read(lines)
            if isinstance(rule, rules.Hyperspherical):
                self.use("class_goodness")
                lines.append(
                    f"class_goodness({block.features}, {rule.prototypes_per_class}, {number(rule.tau)}, "
                    f"{self.weight('rule.prototypes')}, {features}, {self.at('cosine')}, scores);"
                )
            else:
                self.use("linear")
                lines.append(
                    f"linear(1, {block.features}, FO_CLASSES, {self.weight('rule.classifier.weight')}, "
                    f"{self.weight('rule.classifier.bias')}, {features}, scores);"
                )
        return function(
            f"static void scores_{self.index}(const float *activation, float *scores)",
            lines,
            "The class scores of one activation.",
        )

    def read(self, lines: list[str]) -> str:
        """Adds the lines that read an activation; returns where the features then are."""
        block, read = self.block, "activation"
        if block.head is not None:
            self.use("convolution", "relu")
            read = self.at("head")
            lines += [
                f"convolution(&{self.shape_name(block.head)}, 1, {self.weight('rule.auxiliary.0.weight')}, NULL, "
                f"activation, {read}, NULL);",
                f"relu({block.head.outgoing.size}, {read});",
            ]
        if block.pooled:
            self.use("grid_pool")
            lines.append(f"grid_pool(&grid_{self.index}, {block.features}, {read}, {self.at('features')});")
            read = self.at("features")
        return read

    def _learn(self) -> str:
        what = "Adds the gradient of the block's own loss to the target; the mean loss is returned."
        lines = ["float loss = 0.0f;", f"forward_{self.index}({self.rows}, 1);"]
        lines += self._contrast() if self.plan.contrastive else self._judge()
        lines += self._backward()
        lines.append(f"return loss{'' if self.plan.group == 1 else f' / {number(self.plan.group)}'};")
        labels = "void" if self.plan.contrastive else "const int *labels"
        return function(f"static float learn_{self.index}({labels})", lines, what)

    def _contrast(self) -> list[str]:
        """The loss of a contrastive rule and the gradient of the activation."""
        rule, size, group = self.block.rule, self.block.outgoing.size, self.plan.group
        assert isinstance(rule, rules.ForwardForward)
        self.use("sigmoid")
        factor = number(2.0 / size if rule.reduction == "mean" else 2.0)
        activation, gradient = self.at("activation"), self.at("gradient_0")
        lines = [
            f"for (int r = 0; r < {group}; r++) {{ /* row r has the right label, row {group} + r a wrong one */",
            f"    const float positive = goodness_{self.index}({activation} + r * {size});",
            f"    const float negative = goodness_{self.index}({activation} + ({group} + r) * {size});",
        ]
        if rule.objective == "threshold":
            theta, sharp = number(rule.threshold), number(rule.sharpness)
            lines += [
                f"    loss += (softplus({sharp} * ({theta} - positive)) + softplus({sharp} * (negative - {theta}))) / "
                f"{sharp};",
                f"    const float to_positive = -sigmoid({sharp} * ({theta} - positive));",
                f"    const float to_negative = sigmoid({sharp} * (negative - {theta}));",
            ]
        else:
            beta = number(rule.beta)
            lines += [
                f"    loss += softplus({beta} * (negative - positive));",
                f"    const float to_negative = {beta} * sigmoid({beta} * (negative - positive));",
                "    const float to_positive = -to_negative;",
            ]
        lines += [
            "    if (!isfinite(loss)) {",
            "        return loss;",
            "    }",
            f"    for (int i = 0; i < {size}; i++) {{",
            f"        const int p = r * {size} + i, n = ({group} + r) * {size} + i;",
            f"        {indexed(gradient, 'p')} = to_positive * {factor} * {indexed(activation, 'p')};",
            f"        {indexed(gradient, 'n')} = to_negative * {factor} * {indexed(activation, 'n')};",
            "    }",
            "}",
        ]
        return lines

    def _judge(self) -> list[str]:
        """The loss of a one-pass rule, the gradient of the activation, and that of the rule's own weights."""
        block, rule, size = self.block, self.block.rule, self.block.outgoing.size
        self.use("cross_entropy")
        lines = [
            f"for (int r = 0; r < {self.rows}; r++) {{",
            "    float scores[FO_CLASSES];",
            f"    const float *activation = {self.at('activation')} + r * {size};",
            f"    float *gradient = {self.at('gradient_0')} + r * {size};",
            f"    scores_{self.index}(activation, scores);",
        ]
        if isinstance(rule, rules.Hyperspherical):
            lines += [
                "    float to_goodness[FO_CLASSES];",
                "    for (int c = 0; c < CLASSES; c++) {",
                f"        to_goodness[c] = {number(rule.scale)} * (scores[c] - (c == labels[r] ? "
                f"{number(rule.margin)} : 0.0f));",
                "    }",
                "    loss += cross_entropy(labels[r], 0.0f, to_goodness);",
            ]
        else:
            smoothing = number(getattr(rule, "label_smoothing", 0.0))
            lines.append(f"    loss += cross_entropy(labels[r], {smoothing}, scores);")
        lines += ["    if (!isfinite(loss)) {", "        return loss;", "    }"]
        if isinstance(rule, rules.ChannelStatic):
            self.use("group_scores_gradient")
            squared = int(rule.goodness == "squared")
            lines.append(
                f"    group_scores_gradient({block.outgoing.channels}, {block.outgoing.pixels}, {squared}, "
                f"{number(rule.scale)}, scores, activation, gradient);"
            )
            return [*lines, "}"]
        read, to_read = ("activation", "gradient") if block.head is None else (self.at("head"), self.at("to_head"))
        features, to_features, count = read, to_read, block.features
        if block.pooled:
            features, to_features = self.at("features"), self.at("to_features")
        if isinstance(rule, rules.Hyperspherical):
            self.use("class_goodness_gradient")
            lines += [
                "    for (int c = 0; c < CLASSES; c++) {",
                f"        to_goodness[c] *= {number(rule.scale)};",
                "    }",
                f"    class_goodness_gradient({count}, {rule.prototypes_per_class}, {number(rule.tau)}, SHARE, "
                f"{self.weight('rule.prototypes')}, {features}, {self.at('cosine')}, scores, to_goodness, "
                f"{to_features}, {self.target('rule.prototypes')});",
            ]
        else:
            self.use("linear_to_input", "linear_gradient")
            weight = "rule.classifier.weight"
            lines += [
                f"    linear_to_input(1, {count}, FO_CLASSES, {self.weight(weight)}, scores, {to_features});",
                f"    linear_gradient(1, {count}, FO_CLASSES, SHARE, scores, {features}, {self.target(weight)}, "
                f"{self.target('rule.classifier.bias')});",
            ]
        if block.pooled:
            self.use("grid_pool_gradient")
            lines.append(f"    grid_pool_gradient(&grid_{self.index}, {to_features}, {to_read});")
        if block.head is None:
            return [*lines, "}"]
        self.use("relu_gradient", "convolution_to_input", "convolution_gradient")
        head, shape = block.head, self.shape_name(block.head)
        weight = "rule.auxiliary.0.weight"
        return [
            *lines,
            f"    relu_gradient({head.outgoing.size}, {read}, {to_read});",
            f"    convolution_to_input(&{shape}, 1, {self.weight(weight)}, {to_read}, NULL, gradient);",
            f"    convolution_gradient(&{shape}, 1, SHARE, {to_read}, activation, NULL, sums, {self.target(weight)}, "
            "NULL);",
            "}",
        ]

    def _backward(self) -> list[str]:
        """From the gradient of the activation those of the body's weights."""
        lines, stages = [], self.block.stages
        for index in reversed(range(len(stages))):
            stage, size = stages[index], stages[index].outgoing
            slot = (len(stages) - 1 - index) % 2
            gradient, given = self.at(f"gradient_{slot}"), self._input_of(index)
            if stage.standardise:
                self.use("standardise_gradient")
                count = self._normed_together(size)
                lines += [
                    f"for (int i = 0; i < {self.rows * size.size // count}; i++) {{",
                    f"    standardise_gradient({count}, {indexed(self.at(f'inverse_{index}'), 'i')}, "
                    f"{self.at(f'normed_{index}')} + i * {count}, {gradient} + i * {count});",
                    "}",
                ]
            if stage.relu:
                self.use("relu_gradient")
                lines.append(f"relu_gradient({self.rows * size.size}, {self._output_of(index)}, {gradient});")
            if stage.norm:
                self.use("batch_norm_gradient")
                lines.append(
                    f"batch_norm_gradient({self.rows}, {size.channels}, {size.pixels}, SHARE, "
                    f"{self.weight(f'{stage.norm}.weight')}, {self.at(f'standard_{index}')}, "
                    f"{self.at(f'inverse_{index}')}, {gradient}, {self.target(f'{stage.norm}.weight')}, "
                    f"{self.target(f'{stage.norm}.bias')});"
                )
            kind = "linear" if stage.convolution is None else "convolution"
            sizes = f"{self.rows}, {stage.incoming.size}, {size.size}"
            weight, back = f"{stage.path}.weight", self.at(f"gradient_{1 - slot}")
            if index:
                self.use(f"{kind}_to_input")
                call = (
                    f"linear_to_input({sizes}, {self.weight(weight)}, {gradient}, {back});"
                    if stage.convolution is None
                    else f"convolution_to_input(&{self.shape_name(stage)}, {self.rows}, {self.weight(weight)}, "
                    f"{gradient}, {self._winner(index)}, {back});"
                )
                lines.append(call)
            self.use(f"{kind}_gradient")
            lines.append(
                f"linear_gradient({sizes}, SHARE, {gradient}, {given}, {self.target(weight)}, {self._to_bias(stage)});"
                if stage.convolution is None
                else f"convolution_gradient(&{self.shape_name(stage)}, {self.rows}, SHARE, {gradient}, {given}, "
                f"{self._winner(index)}, sums, {self.target(weight)}, {self._to_bias(stage)});"
            )
        return lines

    def _pass(self) -> str:
        size, passes = self.block.outgoing, self.block.passes
        at = f"{self.at('activation')} + r * {size.size}"
        if passes == "unit_rms":
            self.use("unit_rms")
            length = getattr(self.block.rule, "size", "rms") == "length"
            line = f"unit_rms({size.size}, {number(1 / math.sqrt(size.size) if length else 1.0)}, {at});"
        elif passes == "group_norm":
            self.use("group_norm")
            line = f"group_norm({size.channels}, {size.pixels}, {at});"
        else:
            self.use("standardise")
            count = self._normed_together(size)
            line = f"(void)standardise({count}, {at} + c * {count});"
        lines = ["for (int r = 0; r < rows; r++) {", f"    {line}", "}"]
        if passes == "instance_norm":
            lines[1:2] = [f"    for (int c = 0; c < {size.size // count}; c++) {{", f"        {line}", "    }"]
        return function(
            f"static void pass_{self.index}(int rows)",
            lines,
            "The activation, in place, as the next block's signal.",
        )
