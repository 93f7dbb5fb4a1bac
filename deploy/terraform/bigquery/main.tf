# Datasets, a service account that may write to them and run jobs, and nothing more. No key is made.
# docs/bigquery.md explains it. Whoever applies it may make datasets, service accounts and
# bindings in the project, and bindings in the billing project. State is a file in this folder until you add a backend.

provider "google" {
  project = var.project
}

locals {
  billing_project = coalesce(var.billing_project, var.project)
  account         = "serviceAccount:${google_service_account.platform.email}"

  # The datasets that the platform publishes to; their tables and views it makes itself.
  published = {
    raw    = "Users, products and orders as PostgreSQL has them, in daily partitions. Personal data."
    bronze = "Views of raw: newest version per key, types, names. Personal data."
    silver = "Dimensions and facts. E-mail addresses are masked."
    gold   = "Marts."
  }

  datasets = merge(
    { for name, dataset in google_bigquery_dataset.published : name => dataset.dataset_id },
    { staging = google_bigquery_dataset.staging.dataset_id },
  )
}

resource "google_project_service" "needed" {
  for_each = toset(["bigquery.googleapis.com", "iam.googleapis.com", "iamcredentials.googleapis.com"])

  project            = var.project
  service            = each.key
  disable_on_destroy = false
}

# Made here, since roles/bigquery.dataEditor on a dataset does not allow making one.
resource "google_bigquery_dataset" "published" {
  for_each = local.published

  project     = var.project
  dataset_id  = each.key
  description = each.value
  location    = var.location
  labels      = merge(var.labels, { platform = "ecommersss", layer = each.key })

  # Neither a plan that would replace a dataset (another location, another name) nor a destroy takes days with it.
  delete_contents_on_destroy = false

  lifecycle {
    prevent_destroy = true
  }

  depends_on = [google_project_service.needed]
}

# Tables live here while a run loads and audits them: it drops them, and what it could not drop expires.
resource "google_bigquery_dataset" "staging" {
  project     = var.project
  dataset_id  = "staging"
  description = "Rows that are not published yet. Personal data, for a day at most."
  location    = var.location
  labels      = merge(var.labels, { platform = "ecommersss", layer = "staging" })

  default_table_expiration_ms = 86400000
  max_time_travel_hours       = "48"
  delete_contents_on_destroy  = true

  depends_on = [google_project_service.needed]
}

resource "google_service_account" "platform" {
  project      = var.project
  account_id   = var.service_account_id
  display_name = "eCommer$$$ data platform"
  description  = "Writes the datasets ${join(", ", keys(local.published))} and staging."

  depends_on = [google_project_service.needed]
}

# Tables of these datasets: make, read, write, change, drop. Not: make or delete datasets, or hand on access.
resource "google_bigquery_dataset_iam_member" "editor" {
  for_each = local.datasets

  project    = var.project
  dataset_id = each.value
  role       = "roles/bigquery.dataEditor"
  member     = local.account
}

# To run jobs. Not roles/bigquery.user, which also makes datasets.
resource "google_project_iam_member" "jobs" {
  project = local.billing_project
  role    = "roles/bigquery.jobUser"
  member  = local.account
}

resource "google_service_account_iam_member" "impersonator" {
  for_each = var.impersonators

  service_account_id = google_service_account.platform.name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = each.key
}

resource "google_service_account_iam_member" "workload" {
  for_each = var.workload_identities

  service_account_id = google_service_account.platform.name
  role               = "roles/iam.workloadIdentityUser"
  member             = each.key
}

resource "google_bigquery_dataset_iam_member" "reader" {
  for_each = {
    for pair in setproduct(var.reader_datasets, var.readers) :
    "${pair[0]} ${pair[1]}" => { dataset = pair[0], member = pair[1] }
  }

  project    = var.project
  dataset_id = local.datasets[each.value.dataset]
  role       = "roles/bigquery.dataViewer"
  member     = each.value.member
}
