"""The part of Streamlit that the application's Redis layer uses."""

import functools


class SessionState(dict):
    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__


session_state = SessionState()
errors = []
successes = []


def cache_resource(function):
    return functools.cache(function)


def error(text):
    errors.append(text)


def success(text):
    successes.append(text)
