"""Odd files of many kinds, by the length that FFmpeg decodes."""

from support import odd_files


def test_nearly_all_that_ffmpeg_decodes_is_decoded_and_nothing_is_lost_in_silence():
    found = odd_files.outcomes(odd_files.make())
    text = odd_files.shares(found)
    print(text)
    assert len(found) >= 150
    kinds = [x.partition(":")[0] for x in found.values()]
    assert "silent" not in kinds and "crashed" not in kinds, text
    decodable = [kind for kind in kinds if kind != "refused by both"]
    assert decodable.count("refused") <= 0.03 * len(decodable), text
