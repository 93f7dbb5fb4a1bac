# Creates the datasets and a service account that may write to them and run jobs, and nothing more. It creates no
# key. docs/bigquery.md explains how to use it. Whoever applies it needs the right to create datasets, service
# accounts and bindings in the project, and bindings in the billing project. Both need two services before Terraform can
# enable any: see docs/bigquery.md. The state is a file in this folder until you add a backend.

provider "google" {
  project = var.project
}

locals {
  billing_project = coalesce(var.billing_project, var.project)
  account         = "serviceAccount:${google_service_account.platform.email}"

  # The datasets that the platform publishes to. It creates their tables and views itself.
  published = {
    raw    = "Users, products and orders as in PostgreSQL, in daily partitions. Personal data."
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

# Jobs run in the billing project, so it needs the service too.
resource "google_project_service" "billing" {
  count = local.billing_project == var.project ? 0 : 1

  project            = local.billing_project
  service            = "bigquery.googleapis.com"
  disable_on_destroy = false
}

# Created here, because roles/bigquery.dataEditor on a dataset does not allow creating one.
resource "google_bigquery_dataset" "published" {
  for_each = local.published

  project     = var.project
  dataset_id  = each.key
  description = each.value
  location    = var.location
  labels      = merge(var.labels, { platform = "ecommersss", layer = each.key })

  # Nothing expires. Null also removes what a project without billing or another program had set.
  default_table_expiration_ms     = null
  default_partition_expiration_ms = null

  # Published days survive a destroy, and a plan that would replace the dataset (new location, new name).
  delete_contents_on_destroy = false

  lifecycle {
    prevent_destroy = true
  }

  depends_on = [google_project_service.needed]
}

# Tables are here while a run loads and audits them. The run drops them; what it could not drop expires.
resource "google_bigquery_dataset" "staging" {
  project     = var.project
  dataset_id  = "staging"
  description = "Rows that are not published yet. Personal data: tables live for a day at most, and can be restored for 9 more."
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

# Create, read, write, alter and drop tables of these datasets; not create or delete datasets, or grant access.
resource "google_bigquery_dataset_iam_member" "editor" {
  for_each = local.datasets

  project    = var.project
  dataset_id = each.value
  role       = "roles/bigquery.dataEditor"
  member     = local.account
}

# Run jobs. Not roles/bigquery.user, which may also create datasets.
resource "google_project_iam_member" "jobs" {
  project = local.billing_project
  role    = "roles/bigquery.jobUser"
  member  = local.account

  depends_on = [google_project_service.needed, google_project_service.billing]
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
