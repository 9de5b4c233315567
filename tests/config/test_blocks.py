"""Values by the beginning of a name."""

from __future__ import annotations

from finetune.config.blocks import beginnings, longest_prefix, unmatched_prefixes


def test_the_longest_prefix_of_whole_parts_counts() -> None:
    prefixes = ["up_blocks.1", "up_blocks", "up_blocks.1.attentions.0"]
    assert longest_prefix("up_blocks.1.attentions.0.proj_in", prefixes) == "up_blocks.1.attentions.0"
    assert longest_prefix("up_blocks.1.attentions.1.proj_in", prefixes) == "up_blocks.1"
    assert longest_prefix("up_blocks.10.conv", prefixes) == "up_blocks"
    assert longest_prefix("up_blocks", prefixes) == "up_blocks"
    assert longest_prefix("mid_block.conv", prefixes) is None
    assert longest_prefix("mid_block.conv", [*prefixes, ""]) == ""


def test_prefixes_of_nothing_name_the_nearest() -> None:
    names = ["mid_block.attentions.0.to_q", "up_blocks.1.conv"]
    assert beginnings(names) >= {"mid_block", "mid_block.attentions", "up_blocks.1", "up_blocks.1.conv"}
    assert unmatched_prefixes(["mid_block", "up_blocks.1"], names) == []
    assert unmatched_prefixes(["midblock", "mid_block", "zzz"], names) == [
        ("midblock", "mid_block"),
        ("zzz", None),
    ]
