"""Writes, and reads its own output pipe from the other side, before cofferdam does."""
import os, time

print("ready", flush=True)
time.sleep(0.5)
back = os.open("/proc/self/fd/1", os.O_RDONLY | os.O_NONBLOCK)
until, n = time.monotonic() + 2, 0
try:
    while time.monotonic() < until:
        os.write(1, b"line %d\n" % n)
        n += 1
        try:
            os.read(back, 4096)
        except BlockingIOError:
            pass
    os.close(back)
    time.sleep(0.5)
    os.write(1, b"the end\n")
except BrokenPipeError:
    # Cofferdam has given this stream up: nobody reads it any more.
    pass
os._exit(0)
