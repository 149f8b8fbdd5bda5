"""The error of data that cannot be used."""


class DataError(ValueError):
  """Data is missing, damaged or does not fit; one line names file, place and remedy."""


class RequestError(DataError):
  """The data are sound, but cannot give what is asked for."""
