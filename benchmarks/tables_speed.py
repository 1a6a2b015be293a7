"""Generated tables of time and memory: whole runs, training steps, depth, and several processes."""

from lines import Results
from tables import processor, table


def whole_runs(results: Results) -> str:
    """Ratios of the times of whole runs on the six blocks."""
    rows = []
    for line in sorted(results.timings.values(), key=lambda line: str(line["id"])):
        if line["kind"] == "whole-run":
            config = line["config"]
            how = f"{line['threads']} threads" if line["threads"] > 1 else "1 thread"
            how = f"{config['workers']} workers" if config["workers"] > 1 else how
            rule = f"`{config['rule']['name']}`" + (", `--delay 0`" if not config["training"]["delay"] else "")
            rows.append([rule, how, f"{line['ratios']['backprop']:.2f}", processor(line["machine"]), line["precision"]])
    return table(["rule", "how", "time / backprop", "processor", "arithmetic"], rows)


STEPS = {
    "step/projection/conv-8": ("`projection`", "8 convolutions of 128 channels"),
    "step/projection/mlp-8x2000": ("`projection`", "8 layers of 2000 units"),
    "step/projection/six": ("`projection`", "six convolutions"),
    "step/channel-learnable/resnet17-half": ("`channel-learnable`", "ResNet-17, half as wide"),
    "step/ff-uniform/mlp-8x2000": ("`ff`, `--rule.negatives uniform`", "8 layers of 2000 units"),
    "step/ff/mlp-8x2000": ("`ff`", "8 layers of 2000 units"),
    "step/bilinear/six/one-thread": ("`bilinear`", "six convolutions"),
    "step/bilinear/six/two-threads": ("`bilinear`", "six convolutions"),
    "step/best/six/one-thread": ("`best`", "six convolutions"),
    "step/best/six/two-threads": ("`best`", "six convolutions"),
}


def steps(results: Results) -> str:
    """Ratios of the times of one training step."""
    rows = []
    for name, (rule, net) in STEPS.items():
        line = results.timing(name)
        ratios = [f"{line['ratios'][arm]:.2f}" for arm in ("backprop", "backprop-checkpointed")]
        rows.append([rule, net, str(line["config"]["batch"]), str(line["threads"]), *ratios])
    return table(["rule", "net", "batch", "threads", "step / backprop", "/ backprop with checkpoints"], rows)


def busy(results: Results) -> str:
    """A training step beside other processes."""
    rows = []
    for name in ("step/projection/conv-8/busy-0", "step/projection/conv-8/busy-1", "step/projection/conv-8/busy-2"):
        line = results.timing(name)
        ms = [f"{line['arms'][arm]['ms']:.0f}" for arm in ("ours", "backprop")]
        rows.append([str(line["config"]["busy"]), *ms, f"{line['ratios']['backprop']:.2f}"])
    return table(["other processes", "ms", "backprop, ms", "step / backprop"], rows)


def memory(results: Results) -> str:
    """Peak memory above that of the code, against depth."""
    line = results.timing("memory/projection/conv-32")
    code = line["arms"]["code"]["peak_bytes"]
    names = {
        "ours": "local rule",
        "backprop": "backprop",
        "backprop-checkpointed": "backprop with checkpoints",
        "backprop-accumulated": "backprop in 4 micro-batches",
    }
    rows = []
    for arm, name in names.items():
        above = [f"{(line['arms'][arm]['peak_bytes'][depth] - code) / 2**20:.0f}" for depth in ("2", "32")]
        rows.append([name, *above, "" if arm == "ours" else f"{line['ratios'][arm]:.2f}"])
    return table(["", "MiB, 2 convolutions", "MiB, 32 convolutions", "local rule / this, 32"], rows)


def processes(results: Results) -> str:
    """How much faster two processes are than one."""
    line = results.timing("parallel/two-processes")
    names = {
        "data": "data parallel",
        "layers": "a pipeline of blocks",
        "backprop-1f1b": "backprop's pipeline, 1F1B of 8 micro-batches",
    }
    rows = [
        [name, f"{line['ratios'][arm]:.2f}", f"{100 * line['arms'][arm]['waits']:.0f}"] for arm, name in names.items()
    ]
    return table(["two processes", "times as fast as one", "% of the time waiting"], rows)


def parallel_model(results: Results) -> str:
    """Seconds of an epoch on one to four processes of two cores: what the cost model says, and measured."""
    arms = results.timing("parallel/four-processes")["arms"]
    rows = []
    for count in range(1, 5):
        names = ["alone", "alone"] if count == 1 else [f"layers {count}", f"data {count}"]
        cells = [f"{arms[name][what]:.2f}" for name in names for what in ("predicted", "seconds")]
        rows.append([str(count), *cells])
    return table(["processes", "pipeline: the model", "measured", "data: the model", "measured"], rows)
