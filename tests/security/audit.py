"""Asks OSV whether a pinned dependency has a known vulnerability or is known malware; part of `make check`.

    python tests/security/audit.py [CONSTRAINTS] [--ignore-vuln ID ...]

pip-audit asks, for every line of constraints.txt, without installing or resolving anything. Ends with 0 where nothing
is known, 1 where something is, 2 for a file that cannot be read. Where the service cannot be reached it says so in one
line and ends with 0: a check of the code must not depend on the network. OSV_URL in the environment: another service.
"""

import json
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[2]
URL = os.environ.get("OSV_URL", "https://api.osv.dev/v1/query")
PATIENCE, LIMIT = 10, 180  # seconds that the service may take to answer the first question, and all


def unreachable() -> str:
    """Why the service does not answer; "" if it does."""
    question = json.dumps({"package": {"name": "pip", "ecosystem": "PyPI"}, "version": "0"}).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(URL, question), timeout=PATIENCE) as answer:
            json.load(answer)
    except (OSError, ValueError) as error:  # HTTP errors are OSErrors, an answer that is no JSON a ValueError
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def main(arguments: list[str]) -> int:
    """The exit code."""
    constraints = Path(arguments.pop(0)) if arguments and not arguments[0].startswith("-") else None
    if reason := unreachable():
        print(f"audit: skipped: {URL} unreachable ({reason})")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip_audit", "-r", str(constraints or ROOT / "constraints.txt")]
        command += ["--no-deps", "--disable-pip", "--vulnerability-service", "osv", "--osv-url", URL]
        command += ["--progress-spinner", "off", "--format", "json", "--output", str(report), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT)
        except subprocess.TimeoutExpired:
            print(f"audit: skipped: {URL} took more than {LIMIT} seconds")
            return 0
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        if not report.exists():
            if "requests.exceptions" in done.stderr or "onnect" in last:
                print(f"audit: skipped: {URL} unreachable after it had answered ({last[:200]})")
                return 0
            print(f"audit: {last}", file=sys.stderr)
            return 2
        packages = json.loads(report.read_text())["dependencies"]
    found = [(package, each) for package in packages for each in package.get("vulns", [])]
    for package, each in found:
        fixed = ", ".join(each["fix_versions"]) or "nothing yet"
        names = " ".join([each["id"], *each["aliases"]])
        print(f"audit: {package['name']} {package['version']}: {names}; fixed in {fixed}", file=sys.stderr)
    print(f"audit: {len(packages)} pinned packages, {len(found)} known vulnerabilities")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
