# Debian 12's module for distcc's include server was built for an older Python:
# three of its functions fail whenever they are called. These stand in for them.
# The compression is the same, LZO1X-1, by the library itself.
import ctypes
import os
import os.path

try:
    import distcc_pump_c_extensions as extensions

    lzo = ctypes.CDLL("liblzo2.so.2")

    def compress(data):
        if isinstance(data, str):
            data = os.fsencode(data)
        out = ctypes.create_string_buffer(len(data) + len(data) // 16 + 64 + 3)
        n = ctypes.c_ulong()
        memory = ctypes.create_string_buffer(16384 * 8)
        if lzo.lzo1x_1_compress(data, ctypes.c_ulong(len(data)), out, ctypes.byref(n), memory) != 0:
            raise RuntimeError("lzo1x_1_compress failed")
        return out.raw[: n.value]

    extensions.OsPathExists = os.path.exists
    extensions.OsPathIsFile = os.path.isfile
    extensions.CompressLzo1xAlloc = compress
except ImportError:
    pass  # another Python program
