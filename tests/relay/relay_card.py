"""A network card behind a relay, as tests of cards play it: two processes, and the far end of the cable."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from card import Card
from far import Far

from devproc.kept import KEPT_SIZE
from launcher.replay.frontend import FrontEnd

__all__ = ["RelayCard"]


class RelayCard(Card):
    """`front` is the relay, `far` the card."""

    def __init__(
        self, folder: Path, backend: str, properties: dict[str, Any] | None = None, capture: str = "", **more: Any
    ) -> None:
        """`more` is what a relay elsewhere is given."""
        super().__init__(backend, properties, capture)
        self._kept = os.memfd_create("relay")
        os.truncate(self._kept, KEPT_SIZE)
        given = {"mac": "52:54:00:12:34:56", **(properties or {})}
        self.far = Far(folder, "net", backend, given, lent=self._lent, **more)
        self.far.start()
        self.skip_words()
        self.front.close()
        self.front = FrontEnd("relay", {"endpoint": self.far.endpoint}, lent={"relay": self._kept})

    def kill_far(self) -> None:
        """kill -9 of the card, and a successor."""
        self.far.kill()
        self.far.start()
        self.skip_words()

    def close(self) -> None:
        super().close()
        self.far.close()
        os.close(self._kept)
