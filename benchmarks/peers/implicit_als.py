"""ALS of the library `implicit` (Hu, Koren and Volinsky 2008), run as a peer on one thread.

A job has `counts` (users by items, as scipy saves a sparse matrix), `settings` of the library's
model, and `out`, where the factors `users` and `items` are written.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from implicit.als import AlternatingLeastSquares


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    counts = sp.load_npz(job["counts"]).astype(np.float32)
    model = AlternatingLeastSquares(**job["settings"], random_state=0, num_threads=1)
    started = time.process_time()
    model.fit(counts, show_progress=False)
    spent = time.process_time() - started
    np.savez(job["out"], users=model.user_factors, items=model.item_factors)
    print(json.dumps({"cpu_seconds": spent}))


if __name__ == "__main__":
    main()
