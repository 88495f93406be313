"""One meta-likelihood loop for every model."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fsgen.config import TrainConfig, as_plain
from fsgen.data.images import Images
from fsgen.data.prefetch import ahead
from fsgen.data.sampler import EpisodeSampler
from fsgen.data.sources import load_images
from fsgen.distributions import head_for
from fsgen.episode import Episode
from fsgen.errors import FsgenError, InputError
from fsgen.evaluation import own_random_state
from fsgen.inference import Discriminative, terms
from fsgen.model import Trainable, load
from fsgen.monitor import Monitor
from fsgen.objectives import OBJECTIVES, combine
from fsgen.parallel import Alone, Job
from fsgen.registry import MODELS, build, trained_by
from fsgen.run import Run, provenance
from fsgen.storage import check_state_dict
from fsgen.training_objective import objective_terms, validate
from fsgen.training_schedule import annealing, learning_rate, optimiser

PATIENCE = 5  # bad steps in a row before the run stops
MOST_THREADS = 1024
VALIDATION_SEED = 20_18
STOPS = ("time", "SIGUSR1", "SIGTERM", "SIGINT")  # what ends a run early; of several, the last
CALMER = "Train again with a lower --optimiser.learning_rate or --optimiser.clip into another --out."


class TrainingError(FsgenError):
    """Training cannot go on: the loss or a gradient stays non-finite."""

    exit_status = 1


@dataclasses.dataclass
class Outcome:
    """How a call of :meth:`Trainer.fit` ended: "finished", "time" (--max-minutes) or the name of a signal."""

    reason: str
    step: int
    best_nats: float | None

    @property
    def exit_status(self) -> int:
        """0, or 128 + n after signal n, as a shell expects."""
        return 128 + signal.Signals[self.reason].value if self.reason.startswith("SIG") else 0


class Trainer:
    """Maximises the bound of a model on episodes of the training classes.

    Everything that the next step depends on is in the checkpoint: weights, averaged weights, optimiser, step (which
    is also the data position) and random state. A resumed run therefore ends at the same parameters, bit by bit, as
    one that was never stopped, on the same machine with the same number of threads.

    In a job of several processes each takes its share of every batch; parameters, optimiser and average are the same
    in all of them, and process 0 alone validates and writes. A checkpoint does not know how many there were.

    Args:
        config: of the run.
        job: the processes that train together; by default this one alone.

    Raises:
        FsgenError: a value out of range, unknown names, data that cannot be read or do not fit the model.
    """

    run: Run

    def __init__(self, config: TrainConfig, job: Job | None = None) -> None:
        config.check()
        self.config, self.job = config, job or Alone()
        self.share = self.job.share(config.episodes.batch)
        if config.threads > MOST_THREADS:
            raise InputError(f"threads is {config.threads}; give {MOST_THREADS} or less, or 0 for torch's choice.")
        if config.threads:
            torch.set_num_threads(config.threads)
        self.device = _device(self.job.device(config.device))
        self.sampler, self.held_out = self._samplers()
        torch.manual_seed(config.seed)
        self.model = build_model(config, self.sampler).to(self.device)
        if config.channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        decay = config.optimiser.ema
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None
        self.optimiser = optimiser(config.optimiser, self.model)
        if config.compile:
            for network in self.model.children():
                network.compile(mode=config.compile_mode)
        self.step, self.seconds, self.best, self.bad_steps = 0, 0.0, math.inf, 0

    def _samplers(self) -> tuple[EpisodeSampler, EpisodeSampler]:
        c, e = self.config, self.config.episodes
        train = load_images(c.data.name, "train", c.data.root, **c.data.options)
        validation = load_images(c.data.name, "validation", c.data.root, **c.data.options)
        same: dict[str, Any] = {"ways": e.ways, "length": e.length, "small": e.small}
        same |= {"shots": e.shots, "queries": e.queries}
        return (
            EpisodeSampler(
                train, protocol=e.protocol, augment=e.augment, augment_share=e.augment_share, seed=c.seed, **same
            ),
            EpisodeSampler(validation, protocol=c.validation.protocol, seed=VALIDATION_SEED, **same),
        )

    @property
    def selected(self) -> Trainable:
        """The model whose weights are validated and kept: the moving average, if there is one."""
        model = self.model if self.average is None else self.average.module
        assert isinstance(model, Trainable)
        return model

    def fit(
        self, run: Run, *, resume: bool = False, max_minutes: float = math.inf, monitor: Monitor | None = None
    ) -> Outcome:
        """Trains until the last step, the time limit or a signal, and leaves a checkpoint.

        Args:
            run: its folder; the caller holds its lock, process 0 for all.
            resume: continue from the newest good checkpoint, if there is one.
            max_minutes: wall-clock limit of this call.
            monitor: what shows and logs progress.

        Raises:
            LostPeerError: another process of the job died or hangs.
            TrainingError: five steps in a row had a non-finite loss or gradient, or a parameter overflowed.
            CheckpointError: no checkpoint of the run is intact, or it is of another model.
        """
        self.run = run
        monitor = monitor or Monitor(run.path, quiet=True)
        if not (resume and self._restore(monitor)):
            self._start()
        begun, cpu = self.step, time.process_time()
        with _caught_signals(insist=self.job.size == 1) as caught, monitor.watching(self.config.steps, begun):
            try:
                reason = self._loop(caught, time.monotonic() + 60 * max_minutes, monitor)
            except TrainingError:
                if self._broken() is None:
                    self._checkpoint()
                raise
            if self.step > begun:
                self._checkpoint()
                spent = self.job.size * self.job.mean(time.process_time() - cpu)  # of this session, of all processes
                seconds = {"seconds": self.seconds, "cpu_seconds": round(spent, 1), "threads": torch.get_num_threads()}
                ended = {"from": begun, "step": self.step, "reason": reason, "processes": self.job.size, **seconds}
                self._log("sessions", {**ended, "provenance": provenance()})
        monitor.finish(as_plain(self.config), None if math.isinf(self.best) else self.best)
        return Outcome(reason, self.step, None if math.isinf(self.best) else self.best)

    def _loop(self, caught: list[str], deadline: float, monitor: Monitor) -> str:
        c = self.config
        self.model.train()
        remaining = c.steps - self.step
        episodes = self.sampler.stream(c.episodes.batch, self.step, remaining, c.episodes.workers, self.share)
        like = next(self.model.parameters())
        started = time.monotonic() - self.seconds
        for episode in ahead(episodes, like):
            self.job.own_noise(c.seed, self.step)
            loss, norm = self._advance(episode)
            self.step += 1
            self.seconds = time.monotonic() - started
            monitor.step(self.step, loss)
            last = self.step == c.steps
            if self.step % c.validation.every == 0 or last:
                self._validate(loss, norm, monitor)
            wish = caught[0] if caught else "time" if time.monotonic() > deadline else None
            if not last and (reason := self.job.agreed(wish, STOPS)):
                return reason
            if self.step % c.checkpoint_every == 0 and not last:
                self._checkpoint()
        return "finished"

    def _advance(self, episode: Episode) -> tuple[float, float]:
        """One step; a non-finite loss or gradient leaves every parameter and the optimiser untouched."""
        c = self.config
        with torch.autocast(self.device.type, torch.bfloat16, enabled=c.bf16):
            parts, images = objective_terms(self.model, episode, c.objective.particles, c.objective.label_weight)
        likelihood, kl = annealing(c.objective, self.step)
        free = c.objective.free_nats
        pooled = self.job.mean
        log_weights = combine(parts, likelihood_weight=likelihood, kl_weight=kl, free_nats=free, pooled=pooled)
        bad = self.job.gathered((~log_weights.isfinite()).any(0).any(-1))
        if bool(bad.any()):
            first, rows = self.step * c.episodes.batch, log_weights.shape[1] // episode.batch
            named = sorted({first + b // rows for b in bad.nonzero().flatten().tolist()})
            return self._skip(f"non-finite log-weight in episodes {named}")
        units = images if log_weights.shape[-1] == 1 else 1
        loss = -OBJECTIVES[c.objective.name](log_weights).mean() / units
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.job.average(self.model.parameters())
        gradients = {n: p.grad for n, p in self.model.named_parameters() if p.grad is not None}
        norm = nn.utils.get_total_norm(gradients.values())
        if not bool(norm.isfinite()):
            name = _first_nonfinite(gradients) or "the norm of all"
            first = self.step * c.episodes.batch
            return self._skip(f"non-finite gradient of {name} in episodes {first}-{first + c.episodes.batch - 1}")
        nn.utils.clip_grads_with_norm_(self.model.parameters(), c.optimiser.clip or math.inf, norm)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(c.optimiser, self.step, c.steps)
        self.optimiser.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.bad_steps = 0
        return loss.item(), norm.item()

    def _skip(self, why: str) -> tuple[float, float]:
        self.bad_steps += 1
        self._log("metrics", {"step": self.step + 1, "skipped": why, "in_a_row": self.bad_steps})
        if self.bad_steps >= PATIENCE:
            raise TrainingError(
                f"{self.run.path}: stopped at step {self.step + 1} after {PATIENCE} bad steps in a row: {why}. {CALMER}"
            )
        return math.nan, math.nan

    def _validate(self, loss: float, norm: float, monitor: Monitor) -> None:
        loss = self.job.mean(loss)
        if not self.job.lead:
            return
        mean, figures = validate(self.selected, self.held_out, self.config, VALIDATION_SEED)
        record = {
            "step": self.step,
            "train_nats": loss,
            "gradient_norm": norm,
            "learning_rate": self.optimiser.param_groups[0]["lr"],
            **figures,
        }
        if better := mean < self.best:
            self.best = mean
            self.run.save_weights(_cpu(self.selected.state_dict()))
        self._log("metrics", record)
        monitor.validated({**record, "seconds": self.seconds, "best": better}, self.selected, self.held_out)

    def _log(self, name: str, record: dict[str, Any]) -> None:
        if self.job.lead:
            self.run.append(name, record)

    def _broken(self) -> str | None:
        """The first parameter that is not finite, if there is one."""
        return _first_nonfinite(dict(self.model.named_parameters()))

    def _checkpoint(self) -> None:
        if broken := self._broken():
            raise TrainingError(f"{self.run.path}: {broken} is not finite after step {self.step}. {CALMER}")
        if not self.job.lead:
            return
        state = {
            "optimiser": self.optimiser.state_dict(),
            "average": None if self.average is None else _cpu(self.average.state_dict()),
            "random": torch.get_rng_state(),
            "random_cuda": [torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else [],
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "bad_steps": self.bad_steps,
        }
        self.run.save_checkpoint(self.step, _cpu(self.model.state_dict()), state)

    def _start(self) -> None:
        """Step 0: an empty log, and process 0's weights in every process: drawn, or those the configuration names."""

        def first() -> dict[str, Tensor]:
            self.run.rewind("metrics", -1)
            if (folder := self.config.model.init) is not None:
                self.model.start_from(load(folder).state_dict(), folder)
            return _cpu(self.model.state_dict())

        weights = self.job.from_lead(first)
        for model in (self.model, self.selected):
            model.load_state_dict(weights)

    def _restore(self, monitor: Monitor) -> bool:
        """Continues from the newest good checkpoint; false if there is none."""
        checkpoint = self.job.from_lead(self.run.load_checkpoint)
        if checkpoint is None:
            return False
        for message in checkpoint.skipped:
            monitor.say(message)
        said = f"{self.run.path}, step {checkpoint.step}"
        self.job.together(lambda: check_state_dict(self.model.state_dict(), checkpoint.weights, said))
        self.model.load_state_dict(checkpoint.weights)
        state = checkpoint.state
        self.optimiser.load_state_dict(state["optimiser"])
        if self.average is not None and state["average"] is not None:
            self.average.load_state_dict(state["average"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"] and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"][0], self.device)
        self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]
        self.bad_steps = state["bad_steps"]
        if self.job.lead:
            self.run.rewind("metrics", self.step)
        monitor.say(f"resumed at step {self.step} of {self.config.steps}")
        return True


def build_model(config: TrainConfig, sampler: EpisodeSampler) -> Trainable:
    """The configured model for the images of ``sampler``; an option ``likelihood`` or ``levels`` left out is theirs.

    Raises:
        InputError: options with which it cannot be built or scored; or the data have values the model does not know.
    """
    images, options = sampler.images, dict(config.model.options)
    options.setdefault("event_shape", images.event_shape)
    known = trained_by(config.model.name).entry(config.model.name).options
    if "likelihood" in known:
        options.setdefault("likelihood", head_for(images.levels))
    if "levels" in known:
        options.setdefault("levels", images.levels)
    try:
        model = build(config.model.name, preset=config.model.preset, **options)
        assert isinstance(model, Trainable)
        ways = sampler.ways[0] if sampler.shots else 1
        zeros = torch.zeros(1, 2 * ways, *model.event_shape)
        labelled = isinstance(model, Discriminative)
        with own_random_state(torch.empty(0)), torch.no_grad():
            terms(model, Episode(zeros, zeros, ways=ways) if labelled else Episode.sequential(zeros[:, :2]))
    except FsgenError:
        raise
    except Exception as error:  # networks meet sizes that do not fit with exceptions of any kind
        if not config.model.options:
            raise
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise InputError(
            f"model '{config.model.name}' cannot be built with options {config.model.options}: {reason}."
        ) from error
    if tuple(model.event_shape) != images.event_shape:
        raise InputError(f"model '{config.model.name}' takes images {list(model.event_shape)}, but {images} does not.")
    if model.levels != images.levels:
        raise InputError(_other_levels(config.model.name, model, images))
    return model


def _other_levels(name: str, model: Trainable, images: Images) -> str:
    said = f"model '{name}' knows pixels of {model.levels} levels, but {images} has {images.levels}; "
    if model.likelihood is not None:
        return f"{said}leave out --model.options.likelihood, or make it {head_for(images.levels)}."
    able = ", ".join(other for other in MODELS if "likelihood" in MODELS.entry(other).options)
    return f"{said}for a folder of pictures add --data.options.mode binary, or take a model that knows both: {able}."


def _device(name: str) -> torch.device:
    try:
        probe = torch.ones(1, device=name)
        probe.item()  # which "meta" cannot
        return probe.device
    except (RuntimeError, AssertionError) as error:  # torch raises either, by what it was compiled for
        reason = str(error).split("\n")[0].rstrip(".")
        raise InputError(f"device is {name}, which cannot be used here ({reason}); give --device cpu.") from error


def _first_nonfinite(tensors: Mapping[str, Tensor]) -> str | None:
    return next((name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())), None)


def _cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


@contextlib.contextmanager
def _caught_signals(*, insist: bool) -> Iterator[list[str]]:
    """Collects the names of stop signals. A second one ends the process at once, if a person who insists may send it:
    launchers repeat to each of their processes what a scheduler has sent to all.
    """
    caught: list[str] = []

    def note(number: int, frame: object) -> None:
        if caught and insist:
            raise KeyboardInterrupt
        caught.append(signal.Signals(number).name)

    names = [n for n in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, n)]
    try:
        before = {n: signal.signal(signal.Signals[n], note) for n in names}
    except ValueError:  # not in the main thread: signals are the caller's business
        before = {}
    try:
        yield caught
    finally:
        for name, handler in before.items():
            signal.signal(signal.Signals[name], handler)
