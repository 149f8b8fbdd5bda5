"""Errors of data that cannot be used."""


class DataError(ValueError):
  """Data is missing, damaged or does not fit; one line names file, place and remedy."""


class RequestError(DataError):
  """The data are sound, but cannot give what is asked for."""


def first_line(error: BaseException) -> str:
  """Returns the first line of an error's message, or its type's name where there is none."""
  return (str(error).strip() or type(error).__name__).splitlines()[0]
