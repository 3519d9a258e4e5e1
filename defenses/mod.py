"""Defenses of the update as mods of any Flower ClientApp, whatever its replies hold: gradients, deltas or weights."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable, Mod

from defenses.defense import Defense, UpdateDefense
from learning.messages import record_of, tensors_of
from learning.tensors import BUFFER, Tensors, Update

Random = Callable[[Message, Context], torch.Generator]


def unforeseeable(message: Message, context: Context) -> torch.Generator:
    """A generator from the operating system's entropy: noise that nobody can draw again."""
    return torch.Generator().manual_seed(secrets.randbits(63))


def is_buffer(name: str) -> bool:
    """Whether an array holds running statistics, by the names that PyTorch's normalisation layers and this project use."""
    return name.startswith(BUFFER) or name.endswith(("running_mean", "running_var", "num_batches_tracked"))


def as_mod(
    defense: Defense,
    kind: Literal["gradient", "delta", "weights"],
    random: Random = unforeseeable,
    passes: Callable[[str], bool] = is_buffer,
    remembers: str = "",
) -> Mod:
    """A mod that puts the defense behind a client's training: `ClientApp(mods=[as_mod(NormClipping(max_norm=1.0), "delta")])`.

    `kind`: what the reply's array record holds. Gradients and deltas are updates themselves. For weights the update is what
    they have changed from those in the message; it is defended, and sent on as the weights that were received plus what
    the defense made of it. Of several mods the first in Flower's list acts last.

    `random`: gives the generator of a reply. `passes`: says by its name which array is sent on as it is; arrays that are not
    of floating point always are. `remembers`: where not empty, the defense has error feedback: what it has held back in a
    round is added to the update of the client's next (Karimireddy et al. 2019, arXiv 1901.09847, algorithm 2), and kept
    until then in the context's state under this name, a mod's own. Flower keeps a node's state between its rounds.

    Replies to other messages than training's, and error replies, are sent on as they are. The mod raises `ValueError`, of
    which Flower makes an error reply, if the reply holds not exactly one array record, if weights are not those that were
    sent, or if what is remembered is of other arrays. Raises `ValueError` at once for a defense that needs more than the
    update, and for an unknown kind.
    """
    if not isinstance(defense, UpdateDefense):
        raise ValueError(f"{defense} needs the model and the examples, which a mod does not see: use it around the training")
    if kind not in ("gradient", "delta", "weights"):
        raise ValueError(f"kind = {kind!r} should be 'gradient', 'delta' or 'weights'")
    return _Mod(defense, kind, random, passes, remembers)


@dataclass(frozen=True)
class _Mod:
    """Not a closure, so that it travels to Flower's workers as plain data."""

    defense: UpdateDefense
    kind: Literal["gradient", "delta", "weights"]
    random: Random
    passes: Callable[[str], bool]
    remembers: str

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        if message.metadata.message_type.split(".")[0] != "train":
            return call_next(message, context)
        sent = _only(message, "message") if self.kind == "weights" else None  # before others change it
        reply = call_next(message, context)
        if reply.has_error():
            return reply
        answered = {name: tensor for name, tensor in _only(reply, "reply").items() if self._defends(name, tensor)}
        changed = record_of(self._shared(answered, sent, message, context))
        place, record = next(iter(reply.content.array_records.items()))
        reply.content[place] = ArrayRecord({name: changed.get(name, array) for name, array in record.items()})
        return reply

    def _defends(self, name: str, tensor: torch.Tensor) -> bool:
        return tensor.is_floating_point() and not self.passes(name)

    def _shared(self, answered: Tensors, sent: Tensors | None, message: Message, context: Context) -> Tensors:
        """What is sent in the answer's place."""
        own = answered if sent is None else {name: t.double() - _matching(sent, name, t) for name, t in answered.items()}
        if self.remembers and self.remembers in context.state:
            held = tensors_of(context.state.array_records[self.remembers])
            own = {name: tensor + _matching(held, name, tensor) for name, tensor in own.items()}
        shared = self.defense.change(Update(own), self.random(message, context)).parameters
        if self.remembers:
            context.state[self.remembers] = record_of({name: own[name] - shared[name] for name in own})
        if sent is None:
            return shared
        return {name: (sent[name].double() + shared[name]).to(answered[name].dtype) for name in shared}


def _only(message: Message, role: str) -> Tensors:
    """The tensors of the message's one array record."""
    records = message.content.array_records
    if len(records) != 1:
        raise ValueError(f"the {role} holds {len(records)} array records, and a defended one should hold one: {list(records)}")
    return tensors_of(next(iter(records.values())))


def _matching(tensors: Tensors, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor of that name, if it has the other's shape."""
    if name not in tensors or tensors[name].shape != tensor.shape:
        raise ValueError(
            f"'{name}' of shape {tuple(tensor.shape)} does not match what was sent or held back: {list(tensors)[:4]}"
        )
    return tensors[name]
