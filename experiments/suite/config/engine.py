"""Every key of `engine`: what draws and scores candidate pools, where their shards are kept, and what must hold."""

from __future__ import annotations

from dataclasses import dataclass, field

from suite.config.rules import Rule


@dataclass
class StageConfig:
    """The actors of one stage: each holds the models once and takes one shard at a time."""

    actors: int = 1
    """Processes of this stage."""
    cpus: float = 1.0
    """Of each actor; a fraction lets several share a core. Torch uses this many threads, at least one."""
    gpus: float = 0.0
    """Of each actor."""

    def rules(self, key: str) -> list[Rule]:
        """What must hold."""
        shared = self.gpus < 1 or self.gpus == int(self.gpus)
        return [
            (self.actors >= 1, f"{key}.actors", self.actors, "at least 1"),
            (self.cpus > 0, f"{key}.cpus", self.cpus, "greater than 0"),
            (self.gpus >= 0 and shared, f"{key}.gpus", self.gpus, "0, a fraction of 1, or a whole number"),
        ]


@dataclass
class EngineConfig:
    """Who draws: this process (`local`), actors on Ray Data (`ray`), or the same with vLLM in its first stage (`vllm`)."""

    name: str = "local"
    """Who draws pools: `local`, `ray` or `vllm`."""
    shards: str | None = None
    """A folder or an fsspec URL (s3://bucket/folder); `pools` in `cache` unless given."""
    address: str | None = None
    """host:port of a running Ray cluster, or `auto`; a private one on this machine unless given."""
    generation: StageConfig = field(default_factory=StageConfig)
    scoring: StageConfig = field(default_factory=StageConfig)

    def rules(self) -> list[Rule]:
        """What must hold before anything is loaded."""
        own = StageConfig()
        vllm_gpus = self.generation.gpus
        return [
            (self.name in ("local", "ray", "vllm"), "engine.name", self.name, "local, ray or vllm"),
            (self.address is None or self.name != "local", "engine.address", self.address, "null with engine=local"),
            *(
                (self.name != "local" or stage == own, f"engine.{key}", stage, "left alone with engine=local")
                for key, stage in (("generation", self.generation), ("scoring", self.scoring))
            ),
            *self.generation.rules("engine.generation"),
            *self.scoring.rules("engine.scoring"),
            (
                self.name != "vllm" or (vllm_gpus >= 1 and vllm_gpus == int(vllm_gpus)),
                "engine.generation.gpus",
                vllm_gpus,
                "at least 1 with engine=vllm",
            ),
        ]
