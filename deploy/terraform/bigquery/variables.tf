variable "project" {
  description = "Project of the datasets and the service account: ECOMMERSSS_BIGQUERY_PROJECT. Best one of its own: whoever has a basic role (viewer, editor, owner) in it reads every dataset."
  type        = string
}

variable "location" {
  description = "Where the datasets are, for good: ECOMMERSSS_BIGQUERY_LOCATION."
  type        = string
  default     = "asia-southeast2"
}

variable "billing_project" {
  description = "Project that runs and pays the jobs: ECOMMERSSS_BIGQUERY_BILLING_PROJECT. Null: the one of the datasets."
  type        = string
  default     = null
}

variable "maximum_bytes_billed" {
  description = "ECOMMERSSS_BIGQUERY_MAXIMUM_BYTES_BILLED. Null: no bound."
  type        = number
  default     = null

  validation {
    condition     = var.maximum_bytes_billed == null ? true : var.maximum_bytes_billed >= 10485760
    error_message = "BigQuery bills 10 MB (10485760 bytes) for a statement at the least: a smaller bound refuses every one."
  }
}

variable "service_account_id" {
  description = "Name of the platform's service account, before the @."
  type        = string
  default     = "ecommersss"
}

variable "impersonators" {
  description = "Who may act as the service account, for a time and without a key, such as user:ana@example.com or group:data@example.com. With any, the settings ask for it: ECOMMERSSS_BIGQUERY_IMPERSONATE."
  type        = set(string)
  default     = []
}

variable "workload_identities" {
  description = "Workloads that run as the service account, such as serviceAccount:my-project.svc.id.goog[ecommersss/platform] (namespace and account in Kubernetes) or a principalSet:// of a workload identity pool."
  type        = set(string)
  default     = []
}

variable "readers" {
  description = "Who reads the datasets in reader_datasets. They also need roles/bigquery.jobUser in a project of their own, which pays for their queries."
  type        = set(string)
  default     = []
}

variable "reader_datasets" {
  description = "What readers read. Personal data is in raw and bronze; bronze is views, which read raw with the reader's own rights."
  type        = set(string)
  default     = ["gold"]

  validation {
    condition     = length(setsubtract(var.reader_datasets, ["raw", "bronze", "silver", "gold"])) == 0
    error_message = "The datasets with tables or views to read are raw, bronze, silver and gold."
  }
}

variable "labels" {
  description = "Labels of the datasets besides ours, for the bill."
  type        = map(string)
  default     = {}
}
