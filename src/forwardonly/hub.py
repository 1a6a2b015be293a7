"""Networks on the Hugging Face Hub.

`HubNetwork.from_pretrained("someone/digits")` downloads one, `HubNetwork(network).push_to_hub(...)` uploads one. The
repository holds what `fo.save` writes, safetensors and JSON, and a model card made from the run. Nothing is unpickled.
"""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

try:
    from huggingface_hub import ModelHubMixin, snapshot_download
except ImportError as missing:
    raise ImportError("The Hub needs huggingface_hub: pip install 'forward-only[hub]'") from missing

from forwardonly import bodies, rules
from forwardonly.names import as_words
from forwardonly.network.network import Network
from forwardonly.network.storage import CONFIG, MODEL, load, read_config, read_result, write, write_atomically

CARD = "README.md"
TAGS = ["forwardonly", "forward-forward"]


class HubNetwork(
    ModelHubMixin,
    library_name="forwardonly",
    tags=TAGS,
):
    """A network with the Hub's methods: `save_pretrained`, `push_to_hub`, `from_pretrained`.

    Args:
        network: the network itself; the wrapper adds nothing to it.
        run: the run's `config.json` and `result.json`, as far as they exist, for the card.
    """

    def __init__(self, network: Network, run: dict[str, Any] | None = None):
        self.network = network
        self.run = run or {}

    @classmethod
    def of_run(cls, folder: str | Path) -> "HubNetwork":
        """The network of a run folder, with the run's result.

        Raises:
            ValueError: no such run, or a damaged one.
        """
        config = read_config(folder)
        return cls(load(folder), {**config, "result": read_result(folder)})

    def _save_pretrained(self, save_directory: Path) -> None:
        kept = {name: value for name, value in self.run.items() if name != "network"}
        write(self.network, save_directory, **kept)
        write_atomically(save_directory / CARD, card(self.network, self.run).encode())

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **_: Any,
    ) -> "HubNetwork":
        """Loads from a folder on this machine, or from the Hub."""
        folder = Path(model_id)
        if not folder.is_dir():
            fetched = snapshot_download(
                model_id,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
                allow_patterns=[CONFIG, MODEL],
            )
            folder = Path(fetched)
        return cls(load(folder), read_config(folder))

    def generate_model_card(self, *_: Any, **__: Any) -> Any:
        """This library's card instead of the mixin's template."""
        from huggingface_hub import ModelCard

        return ModelCard(card(self.network, self.run))


PICTURES = "image-classification"
TASKS = {"token": "text-generation"}
"""The hub's names of tasks, by the kind of target."""
OUTPUTS = {
    "class": ("classes", "(B,) class indices"),
    "labels": ("labels", "(B, C) which are present"),
    "number": ("numbers", "(B, C) their values"),
    "token": ("words", "(B, T) the next token at each position"),
}
"""What a network gives, in words, and what `predict` returns."""


def card(network: Network, run: dict[str, Any]) -> str:
    """A model card: the network, its measured accuracy if any, and how to use and reproduce it."""
    rule = network.config["rule"]
    data, result = run.get("data", {}), run.get("result", {})
    name = Path(str(data.get("name", "images"))).name
    what, loading = _built(network.config)
    rows = [
        ("rule", rule["name"]),
        what,
        ("blocks", len(network.row)),
        ("input", " x ".join(map(str, network.shape)) or "several, as the model takes them"),
        ("output", f"{network.classes} {OUTPUTS[network.targets][0]}"),
        ("data", name),
    ]
    for key, words in (("test_accuracy", "test accuracy"), ("validation_accuracy", "validation accuracy")):
        if result.get(key) is not None:
            rows.append((words, f"{100 * result[key]:.2f} % (one run, seed {result['seed']}, last epoch)"))
    for key in ("seconds", "device", "precision", "torch"):
        if key in result:
            rows.append((key, result[key] if key != "seconds" else f"{result[key]:.1f}"))
    table = "\n".join(f"| {left} | {right} |" for left, right in rows)
    pictures = network.targets == "class" and network.labelled and len(network.shape) == 3
    task = PICTURES if pictures else TASKS.get(network.targets)
    tags = "\n".join(f"- {tag}" for tag in [*TAGS, *filter(None, [task]), rule["name"]])
    pipeline = f"\npipeline_tag: {task}" if task else ""
    text = f"""---
library_name: forwardonly{pipeline}
tags:
{tags}
---

# {rule["name"]} on {name}

Every block of this network was trained by its own rule; no gradient has crossed from one block to another.

| | |
|---|---|
{table}

```python
{loading}
network.predict(inputs)  # (B, {", ".join(map(str, network.shape))}) -> {OUTPUTS[network.targets][1]}
```
"""
    if command := _command(network, name, data.get("validation", 0)):
        text += f"""
The command that trains such a network; `config.json` holds every option of this run:

    {shlex.join(["forwardonly", *command])}
"""
    return text


def _built(config: dict[str, Any]) -> tuple[tuple[str, str], str]:
    """The row of the card that says what the blocks are, and how to load them."""
    own = 'from forwardonly.hub import HubNetwork\n\nnetwork = HubNetwork.from_pretrained("THIS REPOSITORY").network'
    if "body" in config:
        body = config["body"]
        words = ", ".join(f"{key} {value}" if key != "name" else str(value) for key, value in body.items())
        return ("body", words), own
    source = config["model"]  # of a network that `localize` made
    if source is None:
        code = (
            "import forwardonly as fo\nfrom huggingface_hub import snapshot_download\n\n"
            'network = fo.load(snapshot_download("THIS REPOSITORY"), model=model)  # your own module, built as it was'
        )
        return ("model", "cut in place; only its own code builds it"), code
    if "name" in source:
        return ("model", f"{source['name']}, cut in place"), own
    return ("model", f"{source['class']} of transformers, cut in place"), own


def _command(network: Network, data: str, validation: int) -> list[str]:
    """The words that train such a network on `data`; none where the command line cannot make it.

    Of the data, `validation` images were held out; a readout that is fitted to such needs some.
    """
    config, rule = network.config, network.config["rule"]["name"]
    readout = network.readout
    if network.targets != "class" or rule not in rules.TABLE or (readout.fitted_on == "validation" and not validation):
        return []
    default = rules.TABLE[rule](classes=network.classes).options()
    of_rule = {f"rule.{name}": value for name, value in _other(network.rule.options(), default).items()}
    of_data = {"data": data, **({"validation": validation} if validation else {})}
    of_readout = {} if readout.kind == "sum" else {"readout": readout.kind}  # which is the default
    words = as_words({"rule": rule, **of_data, **of_readout, **of_rule})
    if "body" in config:
        body = config["body"]["name"]
        pictures = len(network.shape) == 3 and network.prepare.input != "features" and "standardise" not in config
        if not pictures or body not in bodies.TABLE:
            return []
        of_body = _other(config["body"], {"name": body, **asdict(bodies.TABLE[body]())})  # type: ignore[call-overload]  # a Body is a dataclass
        return ["train", "--body", body, *words, *as_words(of_body)]
    source = config["model"] or {}
    return ["tune", "--model", source["name"], *words] if "name" in source else []


def _other(options: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    """The options that differ from their defaults."""
    return {name: value for name, value in options.items() if value != default[name]}
