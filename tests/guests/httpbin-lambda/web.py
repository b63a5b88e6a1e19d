"""The real httpbin, as its users would put it on Lambda."""

from apig_wsgi import make_lambda_handler
from httpbin import app

answer = make_lambda_handler(app, binary_support=True)
