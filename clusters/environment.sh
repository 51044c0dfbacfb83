# Sourced by every shell on every node of a cluster: the project's Python, Ray behind its token, and what the YAML wrote
# into ~/.spt (on the head: where Ray and MLflow are, and what all nodes share).
export PATH="$HOME/spt-sweeps/.venv/bin:$PATH"
export RAY_AUTH_MODE=token
for file in "$HOME"/.spt/*.sh; do
    if [ -f "$file" ]; then . "$file"; fi
done
