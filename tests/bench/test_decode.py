"""Decode rows: the step is the decoder's last token, the table's ratios are against the peer."""

from pathlib import Path

import torch

from bench import decode, pages
from bench.decoder import PAST, decoder_step
from effc.backends.measure import Latency
from effc.tables import render
from zoo.language_model import held_out_windows, language_model


def test_a_step_is_the_last_token_of_the_whole_text() -> None:
    program, inputs = decoder_step()
    text = torch.from_numpy(held_out_windows()[:1, : PAST + 1].copy())
    with torch.no_grad():
        expected = language_model()[0](text)[:, -1:]
    found = next(iter(program.run(inputs).values()))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def row(model: str, variant: str, batch: int, seconds: float) -> decode.Row:
    latency = Latency(seconds, seconds / 2, seconds * 2, 9)
    return decode.latency_row(model, variant, batch, latency) | {
        "sqnr_db": 30.0, "read_nbytes_per_second": 5e9, "macs_per_second": 2e11, "limit": 0.5e-3,
    }  # fmt: skip


def test_table() -> None:
    rows = [
        row(model, variant, batch, seconds)
        for model, batch in ((decode.STACK, 1), (decode.STACK, 8), (decode.DECODER, 1))
        for variant, seconds in (("effc", 1e-3), (decode.PEER, 3e-3))
    ]
    text = render([decode.decode_table(rows)], width=160)
    lines = [line for line in text.splitlines() if " effc " in line]
    assert len(lines) == 3
    assert all("50%" in line and "3.00" in line for line in lines)
    rates = ["5.0 GB/s", "400 GFLOP/s", "1000 tokens/s"]
    assert all(rate in line for rate, line in zip(rates, lines, strict=True))


def test_a_section_of_a_page_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\nby hand\n")
    for _ in range(2):
        table = decode.decode_table([row(decode.STACK, decode.PEER, 8, 1e-3)])
        pages.write_section("decode", "make it", [table], page)
    text = page.read_text()
    assert text.startswith("# Page\n\nby hand\n")
    assert text.count("<!-- decode -->") == 1
    assert "`make it` on " in text
