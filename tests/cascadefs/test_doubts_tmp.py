import pytest
from tests.cascadefs.conftest import *
@pytest.mark.parametrize("n,data", [(900,b""),(1100,b"x"),(500,b"x"*60000),(70000,b"")])
def test_many(connect, server, n, data):
    c = connect()
    import time; t=time.time()
    with c.batch() as b:
        for i in range(n): b.put(f"d/{i:04}", data)
