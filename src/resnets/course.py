"""The course of a run: the loop and what follows it, or how it was stopped.

Enters: a `Job`, its run folder, and the checkpoint to go on from. Leaves: a `TrainingResult`, also
where a signal, a full disk or a second Ctrl-C ended it. Of several ranks all leave together.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from resnets.data import Split
from resnets.data.workers import usable_cpus
from resnets.errors import UserError
from resnets.results import TrainingResult, finish
from resnets.training.autotune import Advice
from resnets.training.checkpoint import Checkpoint, NotSavedError, RunFolder
from resnets.training.distributed import DistContext, lost_rank
from resnets.training.job import Job
from resnets.training.loop import train
from resnets.training.nan_check import NotFiniteError
from resnets.training.oom import more_pieces
from resnets.training.profiler import Clock, Outlook, Shares
from resnets.training.reproducibility import cautions_of
from resnets.training.signals import Interrupted, SignalHandler
from resnets.training.sync_batchnorm import synchronise
from resnets.training.train_state import State

Log = Callable[[Mapping[str, Any]], None]

CAUTION = "the test images also chose the best epoch (--validate-on test): scores are optimistic"
IDS_SHOWN = 8


def follow(
    job: Job,
    folder: RunFolder,
    say: Log,
    *,
    notices: Sequence[str],
    checkpoint: Checkpoint | None = None,
    advice: tuple[Advice, ...] = (),
) -> TrainingResult:
    """The loop and what follows it, or how it was stopped."""
    ranks = job.ranks
    model = ranks.in_turn(lambda: job.new_model(pretrained=checkpoint is None))
    if job.recipe.sync_batchnorm:
        synchronise(model, ranks=ranks, device=job.device)
    state = State.start(model, job.recipe, device=job.device)
    if checkpoint is not None:
        state.restore(checkpoint)
    interruption, unsaved = SignalHandler(alone=ranks.count == 1), None
    outlook = Outlook(
        job.recipe,
        num_train=len(job.splits.train),
        num_val=len(job.splits.val),
        cores=usable_cpus(),
        streamed=not job.stream.cached,
        advice=advice,
    )
    shares = Shares(outlook, clock=Clock.of(job.device))
    try:
        progress = {"step": state.step, "steps": job.recipe.steps, "seconds": folder.seconds()}
        say({"kind": "start", **progress})
        with interruption:
            result = _train_and_finish(state, job, folder, say, notices, shares, interruption)
        if result is not None:
            return result
    except NotFiniteError as error:
        raise _with_ids(error, job.splits.train, ranks) from None
    except torch.OutOfMemoryError as error:
        if ranks.count == 1 and folder.load() is None:
            raise  # nothing is lost by beginning anew in smaller pieces
        pieces = more_pieces(job.recipe, ranks=ranks.count)
        smaller = f"go on with --resume {folder.path} --force --grad-accum-steps {pieces}"
        remedy = "begin anew with a smaller --batch-size" if pieces is None else smaller
        raise UserError(f"out of memory at step {state.step}: {remedy} ({error})") from None
    except NotSavedError as error:
        unsaved = str(error)
    except (Interrupted, KeyboardInterrupt):
        pass  # a second signal, or one while scoring: the last checkpoint stands
    except RuntimeError as error:
        if not interruption.heard:
            raise _in_words(error, state.step, ranks) from error
        # The signal reached a worker before it could be told to leave it to this process.
    finally:
        job.stream.close()
        job.validation.close()
    number = interruption.number or interruption.heard or (None if unsaved else signal.SIGINT)
    return TrainingResult(folder.path, None, job.splits.scored[0], signal=number, unsaved=unsaved)


def _train_and_finish(
    state: State,
    job: Job,
    folder: RunFolder,
    say: Log,
    notices: Sequence[str],
    shares: Shares,
    interruption: SignalHandler,
) -> TrainingResult | None:
    """None when a signal stopped the loop."""
    cautions = [CAUTION] if job.recipe.validate_on == "test" else []
    cautions += job.ranks.decided(lambda: cautions_of(folder))
    for text in cautions:
        notice(say, text)

    def log(record: dict[str, Any]) -> None:
        if record["kind"] != "notice":
            folder.log(record)
        say(record)

    finished = train(
        state,
        job.recipe,
        stream=job.stream,
        folder=folder,
        shares=shares,
        log=log,
        validate=partial(job.validate, interruption=interruption),
        interruption=interruption,
        num_images=len(job.splits.train),
        ranks=job.ranks,
    )
    if not finished:
        return None
    if state.replaced:
        times = f"{state.replaced} times" if state.replaced > 1 else "once"
        text = f"an image that could not be read was replaced by the next one {times} in training"
        notices = [*notices, text]
        notice(say, notices[-1])
    return job.ranks.decided(lambda: _finish(job, folder, say, notices, cautions, interruption))


def _finish(
    job: Job,
    folder: RunFolder,
    say: Log,
    notices: Sequence[str],
    cautions: Sequence[str],
    interruption: SignalHandler,
) -> TrainingResult:
    interruption.leave()
    with interruption.breaks():
        return finish(
            job, folder, notices=[*notices, *cautions], cautions=cautions, tell=partial(notice, say)
        )


def _with_ids(error: NotFiniteError, images: Split, ranks: DistContext) -> NotFiniteError:
    """The same error, naming images of its batch."""
    if error.indices is None:
        return error
    indices = np.concatenate(ranks.everywhere(lambda: error.indices))
    shown = ", ".join(images.ids[index] for index in indices[:IDS_SHOWN])
    more = len(indices) - IDS_SHOWN
    tail = f" and {more} more" if more > 0 else ""
    return NotFiniteError(f"{error}, of the images {shown}{tail}", indices)


def _in_words(error: RuntimeError, step: int, ranks: DistContext) -> RuntimeError | UserError:
    """The end of another rank is no fault of this one."""
    if ranks.count == 1 or not lost_rank(error):
        return error
    return UserError(
        f"rank {ranks.rank}: another rank has gone at step {step}; torchrun --max-restarts N, or "
        "the same torchrun command with the same --out, goes on from the last checkpoint"
    )


def notice(say: Log, text: str) -> None:
    """Say a line that belongs to no step."""
    say({"kind": "notice", "text": text})
