{{- define "dicom-router.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "dicom-router.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "dicom-router.labels" -}}
{{ include "dicom-router.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "dicom-router.image" -}}
{{ required "image.repository: name the image that `docker build` made" .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "dicom-router.configMap" -}}
{{- if .Values.routing.existingConfigMap }}{{ .Values.routing.existingConfigMap }}{{ else }}{{ include "dicom-router.name" . }}{{ end }}
{{- end }}

{{- define "dicom-router.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (include "dicom-router.name" .) }}
{{- end }}

{{- /* What every pod has: (dict "root" $ "role" ROLE). */ -}}
{{- define "dicom-router.pod" -}}
{{- $values := .root.Values -}}
serviceAccountName: {{ include "dicom-router.serviceAccount" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with $values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
volumes:
  - name: config
    configMap: {name: {{ include "dicom-router.configMap" .root }}}
  - name: spool
    # The cache, and as much again for what is on its way into the object store.
    emptyDir: {sizeLimit: {{ $values.cache.size }}}
  - name: tmp
    emptyDir: {medium: Memory, sizeLimit: 64Mi}
  {{- if and (eq .role "web") $values.web.tls.existingSecret }}
  - name: tls
    secret: {secretName: {{ $values.web.tls.existingSecret }}, defaultMode: 0440}
  {{- end }}
{{- end }}

{{- /* What every container has: (dict "root" $ "role" ROLE). */ -}}
{{- define "dicom-router.container" -}}
{{- $values := .root.Values -}}
image: {{ include "dicom-router.image" .root }}
imagePullPolicy: {{ $values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
env:
  - name: DICOM_ROUTER__NODE__NAME
    valueFrom: {fieldRef: {fieldPath: metadata.name}}
  - name: DICOM_ROUTER__NODE__PORT
    value: "11112"
  - name: DICOM_ROUTER__NODE__LOG
    value: json
  - name: DICOM_ROUTER__WEB__ADDRESS
    value: 0.0.0.0
  - name: DICOM_ROUTER__WEB__PORT
    value: "8080"
  - name: DICOM_ROUTER__SPOOL__PATH
    value: /var/lib/dicom-router/spool
  - name: DICOM_ROUTER__SPOOL__DATABASE
    valueFrom:
      secretKeyRef:
        name: {{ required "database.existingSecret: name the secret with the postgresql:// URL" $values.database.existingSecret }}
        key: {{ $values.database.key }}
  - name: DICOM_ROUTER__SPOOL__BLOBS
    value: {{ required "blobs.url: write s3://bucket/prefix?endpoint=https://…" $values.blobs.url | quote }}
  {{- if eq .role "receive" }}
  - name: DICOM_ROUTER__NODE__DRAIN
    value: {{ printf "%ds" (int $values.receive.drainSeconds) }}
  - name: DICOM_ROUTER__NODE__ASSOCIATIONS
    value: {{ $values.receive.associations | quote }}
  # All callers may come by one balancer.
  - name: DICOM_ROUTER__NODE__ASSOCIATIONS_PER_PEER
    value: {{ $values.receive.associations | quote }}
  {{- end }}
  {{- if and (eq .role "classify") $values.classify.gpu.enabled }}
  - name: DICOM_ROUTER__MODEL__DEVICE
    value: cuda
  {{- end }}
  {{- if and (eq .role "web") $values.web.tls.existingSecret }}
  - name: DICOM_ROUTER__WEB__TLS__CERTIFICATE
    value: /etc/dicom-router-tls/tls.crt
  - name: DICOM_ROUTER__WEB__TLS__KEY
    value: /etc/dicom-router-tls/tls.key
  {{- end }}
{{- with $values.blobs.existingSecret }}
envFrom:
  - secretRef: {name: {{ . }}}
{{- end }}
volumeMounts:
  - {name: config, mountPath: /etc/dicom-router, readOnly: true}
  - {name: spool, mountPath: /var/lib/dicom-router}
  - {name: tmp, mountPath: /tmp}
  {{- if and (eq .role "web") $values.web.tls.existingSecret }}
  - {name: tls, mountPath: /etc/dicom-router-tls, readOnly: true}
  {{- end }}
{{- end }}
