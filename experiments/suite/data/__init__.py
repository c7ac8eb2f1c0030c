"""IMDB and files of prompts, as prompts for every split."""
