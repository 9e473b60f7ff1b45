"""A Django service whose transactions write messages into an outbox: gunicorn django_app:application."""

import json
import os
import uuid

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.db import models, transaction
from django.http import HttpRequest, JsonResponse
from django.urls import path

NAME = os.environ.get("DATABASE", "shop.db")  # an SQLite file, or a PostgreSQL database on PGHOST
BACKEND = "postgresql" if "PGHOST" in os.environ else "sqlite3"
settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["django_app"],
    DATABASES={"default": {"ENGINE": f"django.db.backends.{BACKEND}", "NAME": NAME}},
)
django.setup()


class Order(models.Model):
    """An order; its number is unique."""

    number = models.IntegerField(unique=True)

    class Meta:
        app_label = "django_app"


class OutboxRow(models.Model):
    """A message to publish: the table that outbox.py reads."""

    id = models.BigAutoField(primary_key=True)
    message_id = models.TextField(unique=True, default=uuid.uuid4)
    exchange = models.TextField()
    routing_key = models.TextField()
    body = models.TextField()

    class Meta:
        app_label = "django_app"
        db_table = "outbox"


def place(_request: HttpRequest, number: int) -> JsonResponse:
    """Store an order and its message together, or neither; RabbitMQ need not be running."""
    with transaction.atomic():
        OutboxRow.objects.create(exchange="orders", routing_key="order.placed", body=json.dumps({"order": number}))
        Order.objects.create(number=number)
    return JsonResponse({"order": number}, status=202)


urlpatterns = [path("orders/<int:number>", place)]
application = WSGIHandler()
