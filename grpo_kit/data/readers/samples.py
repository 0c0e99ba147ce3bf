"""Ready-made samples: a line is {"prompt", "ground_truth"} and, optionally, the other fields of Sample."""

import orjson

from grpo_kit.data.readers.base import Piece, Reader, Trace
from grpo_kit.data.samples import sample_from


class SampleReader(Reader):
    field = "prompt"

    def trace(self, piece: Piece) -> Trace:
        sample = sample_from(piece.content, piece.name)
        return Trace(sample.id, [sample], sample.dialogue_id or orjson.dumps(sample.prompt).decode())
