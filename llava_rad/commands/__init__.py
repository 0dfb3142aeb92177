"""The commands of ``llava-rad``, one file each; nothing heavy is imported before a command runs."""
