"""Order the guesses of a recogniser of speech or print, best first, with a Lacuna service.

Standard input has up to 64 lines: the log-probability (natural logarithm) of a guess, a tab, its
text.

    python rescore.py --context "We went to the beach." < guesses.tsv
"""

import argparse
import json
import sys
import urllib.error
import urllib.request


def main() -> None:
    """Print each guess after the sum of both log-probabilities."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="address of the service")
    parser.add_argument("--context", default="", help="text before the guesses")
    parser.add_argument("--weight", type=float, default=1, help="of the service's log-probability")
    options = parser.parse_args()
    sys.stdin.reconfigure(encoding="utf-8-sig", newline=None)
    guesses = [line.rstrip("\n").split("\t", 1) for line in sys.stdin if line.strip()]
    body = {"text": [text for _, text in guesses], "context": options.context}
    request = urllib.request.Request(
        f"{options.url}/score", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request) as answer:
            results = json.load(answer)["results"]
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{error}: {error.read().decode()}") from error
    totals = [
        (float(score) + options.weight * result["log_probability"], text)
        for (score, text), result in zip(guesses, results, strict=True)
    ]
    for total, text in sorted(totals, reverse=True):
        print(f"{total:.2f}\t{text}")


if __name__ == "__main__":
    main()
