"""Kinds of files that are not read as text, by suffix and by their first bytes."""

_SAVE_TEXT = "save it as .docx or .txt"
_GROUPS = {
    "a picture": "png jpg jpeg gif bmp tif tiff webp heic heif svg ico psd ai eps raw dng avif",
    "sound": "mp3 wav flac m4a aac ogg opus wma mid midi aiff amr",
    "a film": "mp4 mkv avi mov wmv flv webm m4v mpg mpeg 3gp rmvb",
    "an archive; unpack it": "zip rar 7z tar tgz tbz2 txz cab iso dmg jar lz4 lzma z br deb rpm",
    f"legacy Word; {_SAVE_TEXT}": "doc dot wps",
    f"a word processor's file; {_SAVE_TEXT}": "rtf odt ott pages wpd docm dotx hwp abw sxw",
    "an e-book of another kind; convert it to .epub or .txt": (
        "mobi azw azw3 kfx fb2 lit lrf pdb djvu chm caj umd"
    ),
    "a spreadsheet; save it as .csv": "xls xlsx xlsm ods numbers et parquet",
    "slides; save them as .txt": "ppt pptx odp key dps",
    "mail; save the messages as .txt": "pst ost msg mbox eml",
    "a database": "db sqlite sqlite3 mdb accdb dbf realm",
    "a program": "exe dll so dylib o a bin apk ipa msi class pyc pyo wasm com sys",
    "program code": (
        "py js ts jsx tsx c h cc cpp hpp cs java kt go rs rb php pl sh bash bat ps1 swift scala r m"
        " lua sql css scss less vue ipynb asm vb dart mjs"
    ),
    "settings or markup of programs": (
        "xml rss atom xsd xsl plist yaml yml toml ini cfg conf properties lock"
    ),
    "a font": "ttf otf woff woff2 eot",
    "numbers of a model or an array": "npy npz pt pth ckpt safetensors onnx h5 hdf5 pkl pickle mat",
    "a subtitle file of pictures or styles; convert it to .srt": "ass ssa sub idx sup",
    "not complete or temporary": "tmp part crdownload download swp bak lnk url",
}
# The reason that a file with this suffix is not read
REASONS = {
    f".{suffix}": reason for reason, suffixes in _GROUPS.items() for suffix in suffixes.split()
}
# Text that is read if it is named itself
CODE_SUFFIXES = frozenset(
    suffix
    for suffix, reason in REASONS.items()
    if reason in {"program code", "settings or markup of programs"}
)

_BEGINNINGS = {
    b"%PDF-": "a PDF; name it .pdf",
    b"PK\x03\x04": "a zip archive, .docx or .epub under another name; rename or unpack it",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": f"a legacy Office file; {_SAVE_TEXT}",
    b"{\\rtf": f"RTF; {_SAVE_TEXT}",
    b"\x1f\x8b": "compressed; name it .gz",
    b"\xfd7zXZ": "compressed; name it .xz",
    b"\x28\xb5\x2f\xfd": "compressed; name it .zst",
    b"BZh": "compressed; name it .bz2",
    b"Rar!": "an archive; unpack it",
    b"7z\xbc\xaf": "an archive; unpack it",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"GIF8": "a picture",
    b"BM6": "a picture",
    b"II*\0": "a picture",
    b"MM\0*": "a picture",
    b"RIFF": "a picture, sound or a film",
    b"ID3": "sound",
    b"fLaC": "sound",
    b"OggS": "sound",
    b"\x1aE\xdf\xa3": "a film",
    b"\x7fELF": "a program",
    b"MZ\x90": "a program",
    b"\xcf\xfa\xed\xfe": "a program",
    b"\xca\xfe\xba\xbe": "a program",
    b"SQLite format 3": "a database",
}


def name_by_content(head: bytes) -> str | None:
    """Return the kind and the remedy of a file that is not text; None if its beginning is unknown.

    >>> name_by_content(b"%PDF-1.7")
    'a PDF; name it .pdf'
    """
    for beginning, name in _BEGINNINGS.items():
        if head.startswith(beginning):
            return name
    return "a film" if head[4:8] == b"ftyp" else None
