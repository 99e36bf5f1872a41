"""Draw docs/page.webp: the page of a worker in the middle of a `headrace demo`, in a real Chromium.

PYTHONPATH=tests/page .venv/bin/python docs/page_picture.py
"""

import asyncio
import re
import sys
from pathlib import Path

from chromium import tab

PICTURE = Path(__file__).with_name("page.webp")
EVENTS = 9_000
LEARNED = 7_500
"""Examples at which the picture is taken."""
WIDTH, HEIGHT = 1_280, 800
DEADLINE_S = 900.0


async def main() -> int:
    """Run the demo, watch its page from the beginning, keep what it shows; return the demo's exit code."""
    demo = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "headrace", "demo", "--events", str(EVENTS), stdout=asyncio.subprocess.PIPE
    )
    assert demo.stdout is not None
    found = None
    while found is None:
        found = re.search(r"page of the worker: (\S+)", (await demo.stdout.readline()).decode())
    async with tab() as page:
        await page.look(width=WIDTH, height=HEIGHT)
        draining = asyncio.create_task(demo.stdout.read())
        await page.until(f"fetch('{found[1]}livez', {{mode: 'no-cors'}}).then(() => true, () => false)")
        await page.open(found[1])
        learned = "document.querySelector('#tiles [data-name=Learned]')"
        await page.until(f"Number({learned}?.dataset.value ?? 0) >= {LEARNED}", DEADLINE_S)
        PICTURE.write_bytes(await page.picture(form="webp", whole=False))
    await draining
    return await demo.wait()


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
