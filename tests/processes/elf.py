"""Reads what a 64-bit little-endian ELF file says of itself: the libraries it needs and its symbols."""

import struct

SHT_SYMTAB, SHT_DYNAMIC, SHT_DYNSYM = 2, 6, 11
DT_NEEDED = 1


class Elf:
    def __init__(self, path):
        with open(path, "rb") as file:
            self.data = file.read()
        if self.data[:6] != b"\x7fELF\x02\x01":
            raise ValueError(f"{path} is no 64-bit little-endian ELF file")
        offset, = struct.unpack_from("<Q", self.data, 0x28)
        size, count = struct.unpack_from("<HH", self.data, 0x3A)
        # type, file offset, size, link, entry size
        self.sections = []
        for i in range(count):
            at = offset + i * size
            kind, = struct.unpack_from("<I", self.data, at + 4)
            place, length, link = struct.unpack_from("<QQI", self.data, at + 24)
            entry, = struct.unpack_from("<Q", self.data, at + 56)
            self.sections.append((kind, place, length, link, entry))

    def _entries(self, wanted):
        for kind, place, length, link, entry in self.sections:
            if kind == wanted:
                strings = self.sections[link][1]
                for at in range(place, place + length, entry):
                    yield at, strings

    def _text(self, at):
        return self.data[at:self.data.index(b"\0", at)].decode("ascii", errors="replace")

    def needed(self):
        """The shared libraries that the loader will load for it, as it names them."""
        names = []
        for at, strings in self._entries(SHT_DYNAMIC):
            tag, value = struct.unpack_from("<qQ", self.data, at)
            if tag == DT_NEEDED:
                names.append(self._text(strings + value))
        return names

    def symbols(self, kind=SHT_SYMTAB):
        """The mangled names of every function and variable, defined or not; none when stripped."""
        return [self._text(strings + struct.unpack_from("<I", self.data, at)[0])
                for at, strings in self._entries(kind)]

    def imports(self):
        """The names that shared libraries have to give."""
        return [self._text(strings + struct.unpack_from("<I", self.data, at)[0])
                for at, strings in self._entries(SHT_DYNSYM)
                if struct.unpack_from("<H", self.data, at + 6)[0] == 0]
