"""What the lab's servers, guests and networks have in common."""

from typing import Self


class Running:
    """Something that runs from start() to close(), or for the length of a with block."""

    def start(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
