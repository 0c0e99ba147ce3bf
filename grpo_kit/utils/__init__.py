"""What every room uses: files, text, statistics, and what this process runs on."""
