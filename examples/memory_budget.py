"""How deep a network fits a budget of memory for activations. Run: python examples/memory_budget.py"""

import forwardonly as fo

BUDGET = 2**20  # bytes that autograd may hold for a backward pass
WIDTH, BATCH = 128, 256


def saved_bytes(rule: fo.rules.Rule, depth: int, train: fo.data.Images) -> int:
    """Bytes held at the most in one training step."""
    net = fo.mlp(train.shape, [WIDTH] * depth, rule=rule)
    net.prepare.fit(train.images)
    learner = fo.training.Online(net, precision="fp32")
    with fo.measure.SavedBytes() as held:
        learner.learn(train.images[:BATCH], train.labels[:BATCH])
    return held.peak


def deepest(rule: fo.rules.Rule, train: fo.data.Images, most: int = 64) -> int:
    """The largest depth up to `most`, by doubling, whose step stays within the budget."""
    depth = 1
    while depth < most and saved_bytes(rule, 2 * depth, train) <= BUDGET:
        depth *= 2
    return depth


def main() -> dict[str, int]:
    """The deepest network for each rule, and greedy training of one of them, layer by layer."""
    train, _, test = fo.data.load("digits")
    found = {name: deepest(fo.rules.TABLE[name](classes=10), train) for name in ("projection", "backprop")}
    net = fo.mlp(train.shape, [WIDTH] * 4, rule=fo.rules.Projection(classes=10))
    fo.fit(net, train, epochs=4, batch_size=64, schedule="greedy")
    print("accuracy of each layer, trained one after the other:", fo.evaluate(net, test).block_accuracy)
    return found


if __name__ == "__main__":
    for name, depth in main().items():
        print(f"{name}: {depth} layers of {WIDTH} within {BUDGET:,} bytes")
